"""What MkDocs can't know: a page for each model, written from its card, and the table of the operators."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from zoo import registry
from zoo.claims import record_of
from zoo.cli.cards import example
from zoo.extras import DISTRIBUTION
from zoo.plugin import Input, Plugin

OPERATORS = "<!-- operators -->"
NO_CLAIMS = "# Claims\n\nNo claim has been run yet; `zoo reproduce --all --report docs/claims.md` writes this page.\n"


def cards() -> list[Plugin]:
    """The cards of this distribution's models. A broken one fails the build, for its page would be missing."""
    entries = [entry for entry in registry.entries() if entry.distribution == DISTRIBUTION]
    return [registry.info(f"{entry.distribution}:{entry.name}") for entry in entries]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    pages = ["models/index.md", *({card.name: f"models/{card.name}.md"} for card in cards())]
    assert config.nav is not None
    config.nav = [{"Models": pages} if isinstance(item, dict) and "Models" in item else item for item in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    docs = Path(config.docs_dir)
    generated = {f"models/{card.name}.md": page(card, docs) for card in cards()}
    generated["models/index.md"] = index()
    if files.get_file_from_path("claims.md") is None:
        generated["claims.md"] = NO_CLAIMS
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    return markdown.replace(OPERATORS, operators(Path(config.config_file_path).parent))


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
    rows = [[f"[{card.name}]({card.name}.md)", card.task, card.modality, card.summary] for card in cards()]
    return "# Models\n\nAs `zoo list` shows them.\n\n" + table(["model", "task", "modality", "what it does"], rows)


def page(card: Plugin, docs: Path) -> str:
    """A model's page in Markdown."""
    parts = [f"# {card.name}", f"**{card.title}**", card.summary]
    picture = (card.sample or "").removeprefix("sample:")
    if picture and (docs / "images" / f"{picture}.png").is_file():
        parts.append(f"![What {card.name} gives for {card.sample}](../images/{picture}.png)")
    parts += ["```bash", example(card), "```"]
    facts = {
        "Task": card.task,
        "Modality": card.modality,
        "Labels": ", ".join(card.labels),
        "Operators": ", ".join(f"[`{name}`](../operators.md)" for name in card.operators),
        "Extra": f"`pip install '{DISTRIBUTION}[{','.join(card.extras)}]'`" if card.extras else "",
        "Licences": card.licence_notes,
    }
    parts.append(table(["", ""], [[name, text] for name, text in facts.items() if text]))
    parts += ["## Inputs", table(["input", "kind", "default", "meaning"], [input_row(item) for item in card.inputs])]
    parts += ["## Outputs", table(["output", "meaning"], [[f"`{item.name}`", item.help] for item in card.outputs])]
    parts += ["## Demo weights", *weights(card)]
    if card.training:
        data = card.phantom or "pairs:FOLDER"
        parts += ["## Train", "```bash", f'zoo train {card.name} --data "{data}" --out runs/{card.name}', "```"]
        parts.append("[Train on your data](../train.md) tells the forms of `--data`.")
    if card.claim:
        parts += ["## Claim", *claim(card), "```bash", f"zoo reproduce {card.name}", "```"]
    paper = card.paper
    link = f" [doi:{paper.doi}](https://doi.org/{paper.doi})" if paper.doi else ""
    parts += ["## Paper", f"{', '.join(paper.authors)}: *{paper.title}*. {paper.workshop}, {paper.year}.{link}"]
    parts += [f"Code of the authors: <{paper.code}>"] if paper.code else []
    parts += ["```bibtex", paper.bibtex(), "```"]
    return fenced(parts)


def fenced(parts: list[str]) -> str:
    """Paragraphs with an empty line between them; the lines of a code block stay together."""
    text, inside = "", False
    for part in parts:
        opens_or_closes = part.startswith("```")
        text += part + ("\n" if inside != opens_or_closes else "\n\n")
        inside = inside != opens_or_closes
    return text


def weights(card: Plugin) -> list[str]:
    about = card.weights
    if about is None:
        return ["None come with the package; pass `--weights PATH` or `hf://ORG/REPO`."]
    rows = [["trained on", about.trained_on], ["note", about.disclaimer], ["licence", about.licence]]
    rows += [["made by", f"`{about.command}`"]] if about.command else []
    rows += [["time", f"{about.seconds:.0f} s on two CPU cores"]] if about.seconds else []
    rows += [[name, f"{value:g}"] for name, value in about.metrics.items()]
    return [table(["", ""], rows)]


def claim(card: Plugin) -> list[str]:
    """The verdict, where the claim has been run."""
    found = record_of(card)
    if found is None:
        return ["It can be run again by anyone; the result will stand on the page [Claims](../claims.md)."]
    statement, verdict, reason = found["claim"]["statement"], found["verdict"], found["reason"]
    return [statement, f"**{str(verdict).capitalize()}**: {reason}. See [Claims](../claims.md)."]


def input_row(item: Input) -> list[str]:
    limits = ", ".join(item.choices)
    if item.minimum is not None or item.maximum is not None:
        low, high = ("" if limit is None else f"{limit:g}" for limit in (item.minimum, item.maximum))
        limits = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
    default = "required" if item.required else "" if item.default is None else f"`{item.default}`"
    return [f"`{item.name}`", item.kind + (f" ({limits})" if limits else ""), default, item.help]


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
