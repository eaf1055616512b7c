"""The site: it builds without a warning, needs nothing from elsewhere, and tells what is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from zoo import claims, registry
from zoo.extras import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

if not DOCS.is_dir():
    pytest.skip("needs the source checkout", allow_module_level=True)
PAGES = sorted(path for path in [*DOCS.glob("*.md"), ROOT / "README.md"] if path.name != "claims.md")
NOTES = sorted(ROOT.glob("zoo/models/*/notes.md"))


class _Fetched(HTMLParser):
    """What a browser loads to show a page: not the links that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        kind = given.get("rel") or ""
        if tag in ("script", "img", "iframe", "source") or (tag == "link" and "canonical" not in kind):
            self.addresses += [value for name in ("src", "href") if (value := given.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that .ci/run built, or one of our own."""
    pytest.importorskip("material")
    if built := os.environ.get("ZOO_BUILT"):
        return Path(built, "site")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_and_committed_is_fresh():
    stale = [path.name for path, text in _hooks().committed().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python docs/_hooks.py"


def test_the_readme_has_a_row_for_every_model_with_its_verdict():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for card in _hooks().cards():
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{card.name}` |")]
        assert f"[{claims.record_of(card)['verdict']}" in row
        assert f"](docs/claims.md#{card.name})" in row


def test_a_training_page_has_every_field_of_the_recipe_with_the_papers_value_and_place():
    hooks = _hooks()
    text = hooks.train_page(registry.info("grad-align"))
    assert "| field | paper | cifar10 | demo | private | meaning |" in text
    assert "| `clip_norm` | `1.0` |  |  |  | C, Sec. 4.1. |" in text
    assert "| `network.side` | `224` | `32` | `32` | `24` | Images are scaled to squares of this side, px." in text
    assert "| `epsilon` | `null` |  |  | `8.0` |" in text


@pytest.mark.slow
def test_it_builds_with_a_page_for_every_page_and_every_model(site):
    names = [path.stem for path in PAGES if path.parent == DOCS and path.stem != "index"]
    for name in [*names, "claims"]:
        assert (site / name / "index.html").is_file(), name
    for entry in registry.entries():
        if entry.distribution == DISTRIBUTION:
            text = (site / "models" / entry.name / "index.html").read_text(encoding="utf-8")
            plugin = entry.plugin
            assert plugin is not None
            assert plugin.paper.doi in text
            for item in plugin.inputs:
                assert f"<code>{item.name}</code>" in text
            assert (site / "models" / entry.name / "claim.png").stat().st_size > 10_000
            assert (site / "models" / entry.name / "train" / "index.html").is_file()
    assert not (site / "_hooks.py").exists()


@pytest.mark.slow
def test_showing_it_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for path in pages:
        parser = _Fetched()
        parser.feed(path.read_text(encoding="utf-8"))
        outside = [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
        assert outside == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def commands() -> list[tuple[str, str]]:
    found = []
    for page in [*PAGES, *NOTES]:
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == "bash":
                lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
                parts = [part.strip() for line in lines for part in line.split(" && ")]
                found += [(str(page.relative_to(ROOT)), part) for part in parts if part.startswith("zoo ")]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_and_option_that_a_page_names_exists(page, command):
    import typer

    from zoo.cli import app

    here = typer.main.get_command(app)
    words = shlex.split(command, comments=True)[1:]
    while words and hasattr(here, "commands"):
        assert words[0] in here.commands, command
        here, words = here.commands[words[0]], words[1:]
    options = {name for parameter in here.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in options | {"--help"}, command


@pytest.mark.slow
def test_every_operator_is_on_its_page(site):
    text = (site / "operators" / "index.html").read_text(encoding="utf-8")
    modules = [path.stem for path in (ROOT / "zoo" / "ops").glob("[a-z]*.py")]
    assert "prototype_similarity" in modules
    assert [name for name in modules if f"<code>zoo.ops.{name}</code>" not in text] == []


def test_every_layout_and_form_of_a_data_set_is_on_its_page():
    from zoo.data.sets import _READERS, layouts

    text = (DOCS / "train.md").read_text(encoding="utf-8")
    assert [name for name in [*_READERS, *layouts(), "phantom"] if f"`{name}:" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python.md", "operators.md"])
def test_the_python_of_a_page_runs(name, tmp_path):
    code = "\n".join(
        text for kind, text in BLOCK.findall((DOCS / name).read_text(encoding="utf-8")) if kind == "python"
    )
    assert code.count("\n") > 4
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if name == "python.md":
        assert "can't read" in done.stdout or "no-such-file.png" in done.stdout
        assert (tmp_path / "results" / "retina_mask.png").is_file()
