"""Pages that are written from cards, notes, recipes and records of claims.

``python docs/_hooks.py`` writes those that are committed: the README's table of models, ``claims.md``, and the options
of every command in ``command-line.md``. A build of
the site makes the others: a page for each model, one about its training, its claim's picture, the table of operators.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo

from zoo import claims, registry
from zoo import config as configs
from zoo.cards import (
    claim,
    departure_rows,
    example,
    input_row,
    models_table,
    notes,
    paper,
    sentence,
    table,
    weights_facts,
)
from zoo.extras import DISTRIBUTION
from zoo.plugin import Plugin
from zoo.text import kebab

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = "<!-- operators -->"
MODELS, END = "<!-- models: written by python docs/_hooks.py -->", "<!-- models: end -->"
COMMANDS, COMMANDS_END = "<!-- commands: written by python docs/_hooks.py -->", "<!-- commands: end -->"
FROM_NOTES, FROM_MODELS = "](../../../docs/", "](../"  # links of notes.md work on GitHub and on the site


def cards() -> list[Plugin]:
    """The cards of this distribution's models. A broken one fails the build, for its page would be missing."""
    entries = [entry for entry in registry.entries() if entry.distribution == DISTRIBUTION]
    return [registry.info(f"{entry.distribution}:{entry.name}") for entry in entries]


# ---- committed ---------------------------------------------------------------------------------------------------


def committed() -> dict[Path, str]:
    """The pages that lie in the repository, as they should read."""
    readme, lines = ROOT / "README.md", ROOT / "docs" / "command-line.md"
    results = [claims.load_result(path) for card in cards() if (path := claims.record_path(card)) and path.is_file()]
    return {
        readme: between(readme, MODELS, models_table(cards(), "docs/claims.md"), END),
        ROOT / "docs" / "claims.md": claims.page_of(results),
        lines: between(lines, COMMANDS, commands(), COMMANDS_END),
    }


def between(page: Path, begin: str, written: str, end: str) -> str:
    """A page with what stands between two of its lines written anew."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    return f"{before}{begin}\n{written}\n{end}{rest.partition(end)[2]}"


def commands() -> str:
    """Every command with its arguments and options, from the functions behind them: the same with any typer."""
    from zoo.cli import app

    own = [(f"zoo {one.name or kebab(one.callback.__name__)}", one.callback) for one in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands
        own += [(f"zoo {group.name} {one.name or kebab(one.callback.__name__)}", one.callback) for one in inner]
    parts = ["### Before every command", table(["option", "meaning"], parameters(app.registered_callback.callback)[1])]
    for name, function in sorted(own):
        arguments, options = parameters(function)
        words = [word for word, _ in arguments]
        parts += [f"### {name}", inspect.getdoc(function) or "", f"```text\n{' '.join([name, *words])}\n```"]
        told = [row for row in arguments if row[1]]
        parts += [table(["argument", "meaning"], [[f"`{word}`", text] for word, text in told])] if told else []
        parts += [table(["option", "meaning"], options)] if options else []
    return "\n\n".join(parts)


def parameters(function: Any) -> tuple[list[list[str]], list[list[str]]]:
    """Rows for the arguments and for the options of a command."""
    hints = get_type_hints(function, include_extras=True)
    arguments, options = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        said = next((one for one in getattr(hints[name], "__metadata__", ()) if hasattr(one, "help")), None)
        if said is None:  # the context
            continue
        default = parameter.default
        meaning = (said.help or "").replace("|", "\\|")
        shown = said.metavar or name.upper()
        if isinstance(said, ArgumentInfo):
            optional = default is not inspect.Parameter.empty and not shown.startswith("[")
            arguments.append([f"[{shown}]" if optional else shown, meaning])
            continue
        flag = get_args(hints[name])[0] is bool
        first = [said.default] if isinstance(said.default, str) else []  # where typer keeps it beside a type
        called = " ".join([*first, *(said.param_decls or ())]) or f"--{kebab(name)}"
        called = ", ".join(sorted(called.replace("/", " ").split(), key=lambda one: not one.startswith("--")))
        value = "" if flag or said.count else f" {said.metavar or kind_of(get_args(hints[name])[0])}"
        stated = default not in (None, inspect.Parameter.empty) and not flag and not said.count
        needed = "Must be given." if default is inspect.Parameter.empty else f"Default `{default}`." if stated else ""
        options.append([f"`{called}{value}`", f"{meaning} {needed}".strip()])
    return arguments, options


def kind_of(hint: Any) -> str:
    """What stands for an option's value: TEXT, INTEGER, FLOAT or PATH; ``...`` after what may be repeated."""
    inner = [one for one in get_args(hint) if one is not type(None)]
    if get_origin(hint) is list:
        return f"{kind_of(inner[0])} ..."
    if inner:
        return kind_of(inner[0])
    return {int: "INTEGER", float: "FLOAT", Path: "PATH"}.get(hint, "TEXT")


# ---- the site ----------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    pages: list[Any] = ["models/index.md", {"Demo weights": "models/demo.md"}]
    for card in cards():
        own = [{"Use": f"models/{card.name}.md"}]
        pages.append({card.name: own + ([{"Train": f"models/{card.name}/train.md"}] if card.training else [])})
    assert config.nav is not None
    config.nav = [{"Models": pages} if isinstance(item, dict) and "Models" in item else item for item in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    generated: dict[str, str | bytes] = {"models/index.md": index(), "models/demo.md": demo_page()}
    for card in cards():
        generated[f"models/{card.name}.md"] = page(card, Path(config.docs_dir))
        if card.training:
            generated[f"models/{card.name}/train.md"] = train_page(card)
        if (path := claims.record_path(card)) and path.is_file():
            generated[f"models/{card.name}/claim.png"] = claims.figure(claims.load_result(path))
    for name, content in generated.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    return markdown.replace(OPERATORS, operators(ROOT))


def operators(root: Path) -> str:
    """A row for each operator: the first line of its docstring, and for what it has kernels. Nothing is imported."""
    rows = []
    for path in sorted(root.glob("zoo/ops/[a-z]*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        if path.stem in functions:
            said = (ast.get_docstring(functions[path.stem]) or "").partition("\n\n")[0].replace("\n", " ")
            kernels = [name for name, file in (("CPU", "cpu.cpp"), ("CUDA", "cuda.cu"))
                       if (root / "csrc" / path.stem / file).is_file()]  # fmt: skip
            rows.append([f"`zoo.ops.{path.stem}`", said, ", ".join(kernels)])
    return table(["operator", "what it computes", "kernels"], rows)


def index() -> str:
    """Which model for which image: a table for each kind of image, and one of all."""
    rows = [[f"[{card.name}]({card.name}.md)", card.task, card.modality, card.summary] for card in cards()]
    parts = [
        "# Models",
        "As `zoo list` shows them. What their small weights are worth is told in [Demo weights](demo.md).",
        "## Which model for my image",
        "Find what your image shows, then what you want to have.",
    ]
    found = []
    for kind, words in KINDS.items():
        said = [card for card in cards() if any(word in card.modality.lower() for word in words)]
        found += [[kind if not place else "", card.task, f"[{card.name}]({card.name}.md)", _wanted(card)]
                  for place, card in enumerate(said)]  # fmt: skip
    parts += [table(["my image is", "task", "model", "it gives"], found)]
    parts += ["## All models", table(["model", "task", "modality", "what it does"], rows)]
    return "\n\n".join(parts) + "\n"


KINDS = {
    "a photograph of skin": ("dermoscopy", "skin"),
    "a photograph of the retina": ("retina", "fundus"),
    "an endoscopic frame": ("endoscopy", "colonoscopy"),
    "an ultrasound image": ("ultrasound",),
    "a radiograph": ("x-ray", "radiograph"),
    "a stained section": ("h&e", "histology"),
    "a CT volume": ("ct volume", "ct and mr"),
    "an MR volume or slice": ("mr,", "mr volume", "mri"),
    "something else with one object": ("any 2-d",),
}
"""What users have, and the words by which cards name it."""


def _wanted(card: Plugin) -> str:
    return "; ".join(f"{item.name}: {item.help.partition(',')[0]}" for item in card.outputs[:2])


def demo_page() -> str:
    """What the small weights in the package can and can't do, with the numbers that the cards state."""
    rows = []
    for card in cards():
        about = card.weights
        if about is None:
            rows.append([f"[{card.name}]({card.name}.md)", "none", "", ""])
            continue
        numbers = "; ".join(f"{name}: {value:g}" for name, value in about.metrics.items())
        rows.append([f"[{card.name}]({card.name}.md)", f"`{about.trained_on}`", numbers, about.disclaimer])
    parts = [
        "# Demo weights",
        "Every model answers right after the installation, by weights of less than 1 MiB. They show that a method "
        "works and what its answers look like; **none is for patients**.",
        "- They were trained on phantoms: images drawn by a program, of which the truth is known. The numbers below "
        "were measured on phantoms that they never saw.\n"
        "- On a real image they may be right, and nobody knows how often. Every output on one says *demonstration*; "
        "an image that is unlike the phantoms gets no diagnosis ([how that is told](../domain.md)).\n"
        "- For answers that mean something train on your own data ([how](../train.md)), or load weights that somebody "
        "published ([how](../hub.md)).",
        table(["model", "trained on", "measured", ""], rows),
        "The one photograph of the retina on which a number can be stated is told at "
        "[map-vessel](map-vessel.md): its vessels agree with those of a classical filter.",
    ]
    return "\n\n".join(parts) + "\n"


def page(card: Plugin, docs: Path) -> str:
    """What a model takes and gives, how good its weights are, and what came out of its claim."""
    said, _ = notes(card)
    parts = [f"# {card.name}", f"**{card.title}**", card.summary]
    picture = (card.sample or "").removeprefix("sample:")
    if picture and (docs / "images" / f"{picture}.png").is_file():
        parts.append(f"![What {card.name} gives for {card.sample}](../images/{picture}.png)")
    facts = {
        "Task": card.task,
        "Modality": card.modality,
        "Labels": ", ".join(card.spelled_labels),
        "Operators": ", ".join(f"[`{name}`](../operators.md)" for name in card.operators),
        "Extra": f"`pip install '{DISTRIBUTION}[{','.join(card.extras)}]'`" if card.extras else "",
        "Licences": card.licence_notes,
    }
    parts += [code(example(card)), table(["", ""], [[name, text] for name, text in facts.items() if text])]
    inputs = [[f"`{name}`", *rest] for name, *rest in map(input_row, card.inputs)]
    parts += ["## Inputs", table(["input", "kind", "default", "meaning"], inputs)]
    parts += ["## Outputs", table(["output", "meaning"], [[f"`{item.name}`", item.help] for item in card.outputs])]
    if said:
        parts.append(said.replace(FROM_NOTES, FROM_MODELS))
    if card.departures:
        parts += ["## Departures from the paper", table(["what", "why", "effect"], departure_rows(card))]
    about = [[name, text] for name, text in weights_facts(card).items()]
    none = "None come with the package; pass `--weights PATH` or `hf://ORG/REPO`."
    parts += ["## Demo weights", table(["", ""], about) if about else none]
    if card.training:
        parts += ["## Train", code(train_command(card)), f"[How it is trained]({card.name}/train.md)"]
    if card.claim:
        parts += ["## Claim", claim(card)]
        if claims.record_of(card):
            picture = f"![Arms and differences, seed by seed]({card.name}/claim.png)"
            parts += [f"[All numbers](../claims.md#{card.name})", picture]
        parts.append(code(f"zoo reproduce {card.name}"))
    return "\n\n".join([*parts, "## Paper", paper(card)]) + "\n"


def train_page(card: Plugin) -> str:
    """The commands, the recipe with the paper's values and its presets, and what the plugin's notes say of it."""
    training = registry.part(card, "training")[1]
    presets = {name: fields_of(training.configure(name)) for name in training.presets}
    defaults = presets.get("paper") or fields_of(training.recipe())
    presets |= {name: fields_of(training.configure("paper", {"recipe": name})) for name in training.readings}
    others = [name for name in presets if name != "paper"]
    meanings = meanings_of(type(training.configure(next(iter(presets)))))
    rows = []
    for name, value in defaults.items():
        changed = [presets[other].get(name, value) for other in others]
        shown = [f"`{json.dumps(item)}`" if item != value else "" for item in changed]
        rows.append([f"`{name}`", f"`{json.dumps(value)}`", *shown, meanings.get(name, "")])
    _, said = notes(card)
    parts = [
        f"# Train {card.name}",
        f"What [{card.name}](../{card.name}.md) learns from; [Train on your data](../../train.md) tells the forms of "
        "`--data`, how to resume, and what a run writes.",
        code(train_command(card), f'zoo evaluate {card.name} --data "{data_of(card)}" --weights runs/{card.name}'),
    ]
    parts += [said.replace(FROM_NOTES, "](../../")] if said else []
    if card.readings:
        readings = [[f"`--set recipe={name}`", text] for name, text in card.readings.items()]
        parts += ["## Readings", "The paper and the authors' code differ.", table(["", ""], readings)]
    parts += [
        "## Recipe",
        "`--preset NAME` (or `--set recipe=READING`) chooses a column, `--set FIELD=VALUE` changes a field.",
    ]
    parts.append(table(["field", "paper", *others, "meaning"], rows))
    return "\n\n".join(parts) + "\n"


def fields_of(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Fields by the names that ``--set`` takes, as plain values."""
    plain, found = configs.to_dict(recipe), {}
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        inner = is_dataclass(value) and not isinstance(value, type)
        found |= fields_of(value, f"{prefix}{item.name}.") if inner else {prefix + item.name: plain[item.name]}
    return found


def meanings_of(recipe: type, prefix: str = "") -> dict[str, str]:
    """What stands beside or below each field where it is declared."""
    found = {}
    for name, text in declared(recipe):
        found[prefix + name] = sentence(text) if text else ""
    for item in fields(recipe):
        value = getattr(recipe(), item.name)
        if is_dataclass(value):
            found |= meanings_of(type(value), f"{prefix}{item.name}.")
    return found


def declared(recipe: type) -> Iterator[tuple[str, str]]:
    """Each field with its trailing comment and the string below it."""
    source = textwrap.dedent(inspect.getsource(recipe))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            below = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            said = [" ".join(str(below).split()), comments.get(node.end_lineno or 0, "")]
            yield node.target.id, " ".join(sentence(text) for text in said if text)


def data_of(card: Plugin) -> str:
    return card.phantom or "pairs:FOLDER"


def train_command(card: Plugin) -> str:
    return f'zoo train {card.name} --data "{data_of(card)}" --out runs/{card.name}'


def code(*lines: str) -> str:
    return "\n".join(["```bash", *lines, "```"])


if __name__ == "__main__":
    for path, text in committed().items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)} is up to date")
