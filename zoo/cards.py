"""A model's card in words: what the terminal, the site, the README and a repository on the Hub say about a model.

Markdown unless said otherwise. Everything is read from the card, the plugin's ``notes.md`` and the record of its claim;
torch isn't imported.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.claims.records import record_of
from zoo.claims.report import said
from zoo.options import READ
from zoo.plugin import Input, Plugin

NOTES = "notes.md"
TRAIN = "## Train"


def trial(card: Plugin) -> str:
    """An input to try: the sample or phantom that the card names, else its kind in capitals."""
    return card.sample or card.phantom or card.primary_input.kind.upper()


def example(card: Plugin) -> str:
    """A call that works as it stands, for models that name a sample or phantom."""
    drawn = READ if card.phantom and not card.sample else ()  # a phantom draws what its model needs to see
    asked = [item for item in card.options if item.required and item.kind not in drawn]
    needed = {item.name: next(iter(item.choices), "...") for item in asked}
    stated = needed | dict(assignment.split("=", 1) for assignment in card.example)
    given = "".join(f" --with {name}={shlex.quote(value)}" for name, value in stated.items())
    return f"zoo predict {card.name} {shlex.quote(trial(card))}{given}"


def input_row(item: Input) -> list[str]:
    """Name, kind with its limits, default and meaning; plain text."""
    limits = ", ".join(item.choices)
    if item.minimum is not None or item.maximum is not None:
        low, high = ("" if limit is None else f"{limit:g}" for limit in (item.minimum, item.maximum))
        limits = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
    needed = f"required unless {item.unless} is given" if item.unless else "required"
    default = needed if item.required else "optional" if item.default is None else f"default {item.default}"
    return [item.name, item.kind + (f" ({limits})" if limits else ""), default, item.help]


def weights_facts(card: Plugin) -> dict[str, str]:
    """What the card says about the weights that come with the plugin; nothing where there are none."""
    about = card.weights
    if about is None:
        return {}
    facts = {"trained on": about.trained_on, "note": about.disclaimer, "licence": about.licence}
    if about.command:
        facts["made by"] = f"`{about.command}`"
    if about.seconds:
        facts["time"] = f"{about.seconds:.0f} s on two CPU cores"
    return facts | {name: f"{value:g}" for name, value in about.metrics.items()}


def paper(card: Plugin) -> str:
    """The citation, the authors' code and the BibTeX entry."""
    source = card.paper
    link = f" <https://doi.org/{source.doi}>" if source.doi else ""
    code = f"\n\nCode of the authors: <{source.code}>" if source.code else ""
    cited = f"{', '.join(source.authors)}: *{source.title}*. {source.workshop}, {source.year}.{link}"
    return f"{cited}{code}\n\n```bibtex\n{source.bibtex()}\n```"


def departure_rows(card: Plugin) -> list[list[str]]:
    """What is done otherwise than the paper says, why, and what it changes; plain text."""
    return [[item.what, item.why, sentence(item.effect) if item.effect else ""] for item in card.departures]


def claim(card: Plugin) -> str:
    """The claim and what came out, as its record says."""
    if not card.claim:
        return "This model states no claim that can be re-tested."
    record = record_of(card)
    if record is None:
        return f"Not run. `zoo reproduce {card.name}` re-tests the paper's headline."
    about = record.get("claim")
    statement = about.get("statement") if isinstance(about, Mapping) else None
    stated = f"{sentence(statement)}\n\n" if isinstance(statement, str) else ""
    seeds = len(record["seeds"]) if isinstance(record.get("seeds"), list) else "an unknown number of"
    verdict = said(record["verdict"], record.get("by_recipe") or {})
    parts = [f"Verdict of `zoo reproduce {card.name}` over {seeds} seeds: **{verdict}**."]
    if isinstance(record.get("reason"), str) and record["reason"]:
        parts.append(sentence(record["reason"]))
    if not record.get("complete", True):
        parts.append("The run was stopped before all its seeds.")
    return stated + " ".join([*parts, *readings(record)])


def readings(record: Mapping[str, Any]) -> list[str]:
    """What the verdicts mean: of the primary comparison, and of those that belong beside it wherever it's quoted."""
    compared = record.get("comparisons") or []
    quoted = ("headline", "recipe")
    chosen = [item for place, item in enumerate(compared) if place == 0 or any(map(item.get, quoted))]
    texts = [item.get("readings", {}).get(item["verdict"]) for item in chosen]
    return [sentence(text) for text in texts if text]


def models_table(cards: Iterable[Plugin], page: str) -> str:
    """A row for each model: what it does, and what came out of its claim, which ``page`` tells at length."""
    rows = []
    for card in cards:
        record = record_of(card)
        verdict = "not run"
        if record:
            words = said(record["verdict"], record.get("by_recipe") or {})
            verdict = " ".join([f"[{words}]({page}#{card.name}).", *readings(record)])
        rows.append([f"`{card.name}`", card.summary, verdict])
    return table(["model", "what it does", "its claim, re-tested"], rows)


def notes(card: Plugin) -> tuple[str, str]:
    """``notes.md`` beside the plugin's model: what belongs to its page, and what to the page about its training."""
    spec = find_spec(card.model.partition(":")[0])
    path = Path(spec.origin).with_name(NOTES) if spec and spec.origin else Path(NOTES)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, heading, after = text.partition(f"{TRAIN}\n")
    return before.strip(), after.strip() if heading else ""


def sentence(text: str) -> str:
    """With a capital and a full stop; the specification of a data set as code."""
    text = text.strip()
    if ":" in text and " " not in text:
        return f"`{text}`"
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
