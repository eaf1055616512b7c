"""What the page says in words: about a model, about its weights, about what was found and what went wrong."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from zoo import cards
from zoo.plugin import Plugin
from zoo.serve.desk import Ticket

INTRODUCTION = (
    "# zoo\n\nMedical-imaging papers that you can run. **Results of research software: nothing here is for clinical "
    "use.** What you send stays on the machine that serves this page, and is removed afterwards."
)


def title(card: Plugin) -> str:
    return f"## {card.name}: {card.title}\n\n{card.summary}"


def weights(card: Plugin, spec: str | None) -> str:
    """What the weights are, plainly."""
    if spec is not None and spec != "demo":
        return (
            f"### The weights\n\nWhoever runs this server chose these weights: `{spec}`. What they were trained on "
            "stands with every result."
        )
    if card.weights is None:
        return "### The weights\n\nThere are none: the network is as it was drawn, and **its answers mean nothing**."
    about = card.weights
    drawn = about.trained_on.startswith("phantom:")
    lines = [
        "### The weights",
        "These weights have only ever seen images that a program draws (phantoms). **They show that the model works. "
        "On a real image the answer may be wrong in any way.**"
        if drawn
        else f"These weights were trained on {about.trained_on}. {cards.sentence(about.disclaimer)}",
        "\n".join(f"- {name}: {text}" for name, text in cards.weights_facts(card).items()),
    ]
    return "\n\n".join(lines)


def citation(card: Plugin) -> str:
    return f"### Citation\n\n{cards.paper(card)}\n\n{card.licence_notes}"


def claim(card: Plugin) -> str:
    return f"### The paper's claim, re-tested\n\n{cards.claim(card)}"


def refusal(sentence: str) -> str:
    """An error, for eyes and for screen readers."""
    return f'<div role="alert" class="zoo-refusal"><strong>This didn\'t work:</strong> {html.escape(sentence)}</div>'


def running(ticket: Ticket[Any]) -> str:
    """How far a prediction is."""
    if ticket.state == "waiting":
        return f'<p role="status">Waiting: {ticket.before} before yours.</p>'
    share = round(100 * ticket.progress)
    done = f", {ticket.done} of {ticket.total} inputs" if ticket.total > 1 else ""
    bar = f'<progress max="100" value="{share}" aria-label="Progress">{share}%</progress>' if share else ""
    return f'<p role="status">At work{done}. {bar}</p>'


def told(results: Sequence[Mapping[str, Any]]) -> str:
    """The summaries and notes of results."""
    parts = []
    for record in results:
        source = html.escape(str(record.get("source", "")))
        if "error" in record:
            parts.append(refusal(str(record["error"])))
            continue
        notes = "".join(f"<li>{html.escape(str(note))}</li>" for note in record.get("notes", ()))
        weights = f"weights: {record.get('weights')} ({record.get('disclaimer')})"
        parts.append(
            f"<p><strong>{source}</strong>: {html.escape(str(record.get('summary', '')))}</p>"
            f"<ul>{notes}<li>{html.escape(weights)}</li></ul>"
        )
    return f'<div role="status" class="zoo-told">{"".join(parts)}</div>'


def table(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Probabilities, shares and measurements: input, what, value."""
    rows = []
    for record in results:
        source = str(record.get("source", ""))
        for name, value in (record.get("probabilities") or {}).items():
            rows.append([source, f"probability of {name}", f"{value:.4f}"])
        for name, value in (record.get("area_fraction") or {}).items():
            rows.append([source, f"share of {name}", f"{value:.4f}"])
        for name, value in (record.get("measurements") or {}).items():
            rows.append([source, name.replace("_", " "), f"{value:.6g}"])
    return rows
