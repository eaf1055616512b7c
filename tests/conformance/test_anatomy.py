"""What ``zoo check`` says about a plugin's folder: a sentence for each thing, a failure for ours alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.conftest import CARD
from zoo.conformance import anatomy, check

FILES = {
    "__init__.py": "from zoo.plugin import Plugin\n",
    "model.py": "class Net:\n    def forward(self):\n        return 1\n",
    "training.py": "from toy_paper.model import Net\n",
    "claim.py": "",
    "claim.json": "{}",
    "result.py": "",
    "distance.py": "",
    "accounting.py": "",
}
LONG = "def outer():\n    def solve():\n" + "        x = 1\n" * 80


def findings(folder: Path, changes: dict[str, str | None]) -> list[str]:
    for name, text in {**FILES, **changes}.items():
        if text is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    return list(anatomy.findings(folder, package="toy_paper", others=("other_paper", "zoo.models.map_vessel")))


def test_a_folder_like_all_others_has_no_findings(tmp_path: Path):
    assert findings(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"charts.py": ""}, "charts.py is called result.py in every plugin"),
        ({"utils.py": ""}, "utils.py says nothing about what it holds"),
        ({"prior.py": ""}, "3 files have names of their own, accounting.py, distance.py, prior.py; 2 at most"),
        ({"parts/one.py": ""}, "parts/ holds code; a plugin is one folder of files"),
        ({"model.py": "x = 1\n" * 351}, "model.py has 351 lines, 350 at most"),
        ({f"{n}.py": "x = 1\n" * 350 for n in ("model", "training", "claim", "result", "data")},
         "the plugin has 1,751 lines of Python, 1,500 at most"),
        ({"model.py": LONG}, "model.py: outer.solve has 81 lines, 80 at most"),
        ({"claim.json": None}, "claim.json is missing beside claim.py"),
        ({"model.py": "def late():\n    import other_paper.model\n"}, "model.py imports other_paper of another plugin"),
        ({"model.py": "from zoo.models import map_vessel\n"}, "model.py imports zoo.models.map_vessel of another"),
        ({"model.py": "from ..other_paper import x\n"}, None),  # toy_paper has nothing above it
    ],
)  # fmt: skip
def test_each_thing_is_one_sentence(tmp_path: Path, changes: dict, sentence: str | None):
    found = findings(tmp_path, changes)
    said = [text for text in found if sentence and text.startswith(sentence)]
    assert len(said) == (1 if sentence else 0), found
    assert not any("\n" in text or text.endswith(".") for text in found)


def test_relative_imports_lead_to_their_module(tmp_path: Path):
    (tmp_path / "model.py").write_text("from ..map_vessel.model import MapVessel\nfrom . import training\n")
    found = list(anatomy.findings(tmp_path, package="zoo.models.toy", others=("zoo.models.map_vessel",)))
    assert found == [
        "model.py imports zoo.models.map_vessel of another plugin; what two papers share belongs in a shared room"
    ]


def test_what_fails_ours_is_advice_to_others(install_plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = install_plugin("toy-zoo", CARD)
    (site / "toy_package.py").unlink()
    (site / "toy_package").mkdir()
    (site / "toy_package" / "__init__.py").write_text(CARD)
    (site / "toy_package" / "helpers.py").write_text("")
    (result,) = check("toy-model", only=["anatomy"]).results
    assert result.status == "passed"
    assert result.detail == (
        "by the rules of our own plugins: helpers.py says nothing about what it holds; name it after that"
    )
    monkeypatch.setattr(anatomy, "DISTRIBUTION", "toy-zoo")
    (result,) = check("toy-model", only=["anatomy"]).results
    assert result.status == "failed"
    assert result.detail.startswith("helpers.py says nothing")


def test_a_plugin_of_one_module_has_no_folder_to_look_at(toy):
    toy()
    (result,) = check("toy-model", only=["anatomy"]).results
    assert (result.status, result.detail) == ("skipped", "the plugin is one module, so it has no folder to look at")
