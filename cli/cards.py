"""``zoo list``, ``zoo info`` and ``zoo samples``. None of them imports torch."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from zoo import registry
from zoo.cli.output import plain, print_json, print_table
from zoo.errors import OptionError
from zoo.plugin import Task
from zoo.text import nearest

SUMMARY = 300  # characters of it in the wide table of all models


def register(app: typer.Typer) -> None:
    app.command("list")(list_)
    app.command()(info)
    app.command()(samples)


def list_(
    task: Annotated[str | None, typer.Option(help="Only this task, such as segmentation.")] = None,
    modality: Annotated[str | None, typer.Option(help="Only this modality, such as fundus.")] = None,
    operator: Annotated[str | None, typer.Option(help="Only models that use this function of zoo.ops.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Everything on one line each, however long.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed models."""
    if task is not None and task not in (tasks := get_args(Task)):
        raise OptionError(f"there is no task {task!r}; {nearest(task, tasks)}")
    chosen = registry.select(task=task, modality=modality, operator=operator)
    if json:
        print_json([_as_dict(entry) for entry in chosen])
        return
    rows = [_wide(entry) if wide else _narrow(entry) for entry in chosen]
    if not rows:
        print("no model matches; zoo list without filters shows all of them")
    elif wide:
        for line in _aligned([["model", "task", "modality", "weights", "from", "what it does"], *rows]):
            print(line)
    else:
        print_table(["model", "task", "what it does"], rows, cut=True)


def _narrow(entry: registry.Entry) -> list[str]:
    card = entry.plugin
    return [card.name, card.task, card.summary] if card else [entry.name, "broken", entry.error or ""]


def _wide(entry: registry.Entry) -> list[str]:
    card, owner = entry.plugin, f"{entry.distribution} {entry.version}".strip()
    if card is None:
        return [entry.name, "broken", "", "", owner, entry.error or ""]
    return [card.name, card.task, card.modality, "demo" if card.weights else "none", owner, card.summary]


def _aligned(rows: list[list[str]]) -> list[str]:
    """A line for each row, as long as it takes."""
    rows = [[plain(cell, SUMMARY) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _as_dict(entry: registry.Entry) -> dict[str, Any]:
    about = {"distribution": entry.distribution, "version": entry.version, "status": entry.status}
    if entry.plugin is None:
        return {"name": entry.name, **about, "error": entry.error}
    return {**entry.plugin.to_dict(), **about}


def info(
    name: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the card of one model: what it needs, gives, and where it comes from."""
    from zoo import cards

    entry = registry.find(name)
    card = entry.plugin
    assert card is not None
    if json:
        print_json({**_as_dict(entry), "example": cards.example(card), "bibtex": card.paper.bibtex()})
        return
    print(plain(f"{card.name} - {card.title}\n{card.summary}\n"))
    facts = [
        ["task", card.task],
        ["modality", card.modality],
        ["labels", ", ".join(card.spelled_labels) or "-"],
        ["operators", ", ".join(card.operators) or "-"],
        ["needs extra", ", ".join(card.extras) or "-"],
        ["code of the authors", card.paper.code or "not stated"],
        ["licence notes", card.licence_notes or "-"],
        ["from", f"{entry.distribution} {entry.version}"],
    ]
    print_table(["", ""], facts)
    print_table(["input", "kind", "", "meaning"], [cards.input_row(item) for item in card.inputs], title="\nInputs")
    print_table(["output", "meaning"], [[item.name, item.help] for item in card.outputs], title="\nOutputs")
    if card.readings:
        print_table(["--set recipe=", ""], [[name, text] for name, text in card.readings.items()], title="\nReadings")
    if card.departures:
        print("\nDepartures from the paper")
        for item in card.departures:
            print(plain(f"  {item.what} {item.why}{f' Effect: {item.effect}.' if item.effect else ''}"))
    if card.weights:
        rows = [[name, text.replace("`", "")] for name, text in cards.weights_facts(card).items()]
        print_table(["", ""], rows, title="\nDemo weights")
    if card.claim:
        told = cards.claim(card).translate(str.maketrans("", "", "*`")).replace("\n\n", "\n  ")
        print(plain(f"\nClaim\n  {told}"))
    print(plain(f"\nExample\n  {cards.example(card)}\n\nCitation\n{card.paper.bibtex()}"))


def samples(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List real images that installed libraries carry, and the procedural phantoms."""
    from zoo.data.phantoms import PHANTOMS, summary
    from zoo.samples import SAMPLES

    rows = [[f"sample:{sample.name}", sample.title, f"ships with {sample.library}"] for sample in SAMPLES.values()] + [
        [f"phantom:{name}", summary(name), "procedural"] for name in PHANTOMS
    ]
    if json:
        print_json([{"input": row[0], "title": row[1], "origin": row[2]} for row in rows])
    else:
        print_table(["input", "what it shows", "origin"], rows)
