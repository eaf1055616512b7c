"""How the page is laid out, and what its controls do."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from zoo import registry
from zoo.errors import ZooError
from zoo.plugin import Plugin
from zoo.samples import SAMPLES
from zoo.serve.desk import Ticket
from zoo.serve.page import words
from zoo.serve.page.canvas import DRAWN, canvas, marks_of, text_of, tools_of
from zoo.serve.page.controls import control, put
from zoo.serve.uploads import Asked, Budget, Intake, scrubbed, together

ALL = "all"
PICTURES = 64  # previews and masks that are kept
_HIDDEN: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}


class Page:
    """The page of a server; ``house``: what it shares with the API. Uploads lie in ``uploads`` and nowhere else."""

    def __init__(self, house: Any) -> None:
        self.house = house
        self.pictures: OrderedDict[str, bytes] = OrderedDict()
        self.uploads = house.temporary.folder / "page"
        self.tickets: dict[str, Ticket[Any]] = {}
        self._sessions: Any = None
        self.cards = {entry.name: entry.plugin for entry in house.entries() if entry.plugin is not None}

    # ---- layout --------------------------------------------------------------------------------------------------

    def blocks(self) -> gr.Blocks:
        kept = round(self.house.settings.keep)
        with gr.Blocks(title="zoo", analytics_enabled=False, delete_cache=(300, max(300, kept))) as blocks:
            gr.Markdown(words.INTRODUCTION)
            model = self._choice(blocks)
            with gr.Row(equal_height=False):
                with gr.Column(min_width=340):
                    place = gr.Column()
                with gr.Column(min_width=340):
                    outputs = _outputs()
            with place:
                gr.render(inputs=[model])(lambda name: self._form(name, outputs))
            about = [gr.Markdown(), gr.Markdown(), gr.Markdown()]
            # The last of several changes counts: ?model=NAME changes the model while the first one's words are fetched.
            gr.on([blocks.load, model.change], self._about, [model], about, trigger_mode="always_last", **_HIDDEN)
            model.change(lambda: ("", None, [], None, None, None), None, outputs, **_HIDDEN)  # results are of one model
        return blocks

    def _choice(self, blocks: gr.Blocks) -> gr.Dropdown:
        """Which model: by name or words, narrowed by task and modality, or named in the address as ?model=NAME."""
        tasks = sorted({card.task for card in self.cards.values()})
        with gr.Row():
            task = gr.Dropdown([ALL, *tasks], value=ALL, label="Task", min_width=160, elem_id="task")
            modality = gr.Textbox(label="Modality", placeholder="such as skin", min_width=160, elem_id="modality")
            names = self._names(ALL, "")
            model = gr.Dropdown(
                names, value=names[0][1] if names else None, label="Model", info="type to search", scale=3,
                min_width=300, elem_id="model",
            )  # fmt: skip

        def narrow(task: str, modality: str, chosen: str) -> Any:
            names = self._names(task, modality)
            known = [name for _, name in names]
            return gr.Dropdown(choices=names, value=chosen if chosen in known else (known[0] if known else None))

        def named(request: gr.Request) -> Any:
            name = str(request.query_params.get("model", ""))
            return name if name in self.cards else gr.skip()

        gr.on([task.change, modality.change], narrow, [task, modality, model], model, **_HIDDEN)
        blocks.load(named, None, model, **_HIDDEN)
        return model

    def _names(self, task: str, modality: str) -> list[tuple[str, str]]:
        chosen = registry.select(task=None if task == ALL else task, modality=modality.strip() or None)
        found = [self.cards[entry.name] for entry in chosen if entry.name in self.cards]
        return [(f"{card.name}: {card.summary}", card.name) for card in found if card is not None]

    def _about(self, name: str | None) -> tuple[str, str, str]:
        card = self.cards.get(name or "")
        if card is None:
            return "No model matches; choose another task or modality.", "", ""
        spec = dict(self.house.settings.weights).get(card.name)
        return words.weights(card, spec), words.citation(card), words.claim(card)

    def _form(self, name: str | None, outputs: list[gr.components.Component]) -> None:
        """The input and the controls of one model."""
        card = self.cards.get(name or "")
        if card is None:
            return
        gr.Markdown(words.title(card))
        several = card.primary_input.kind in ("images", "volume")
        file = gr.File(
            label=f"Your {card.primary_input.name}: {card.primary_input.help}", height=180, elem_id="input",
            file_count="multiple" if several else "single", interactive=True,
        )  # fmt: skip
        sample = gr.Dropdown(_samples(card), value="", label="or take a sample", elem_id="sample", interactive=True)
        picture = canvas(tools_of(card), elem_id="canvas")
        note = gr.HTML(elem_id="input-note")
        drawn = [item for item in card.options if item.kind in DRAWN]
        rest = [item for item in card.options if item.kind not in DRAWN]
        texts = [control(item) for item in drawn]
        needed = [control(item) for item in rest if item.required]
        with gr.Accordion("Options", open=False, visible=len(needed) < len(rest)):
            optional = [control(item) for item in rest if not item.required]
        order = [*drawn, *(item for item in rest if item.required), *(item for item in rest if not item.required)]
        with gr.Row():
            start = gr.Button("Predict", variant="primary", elem_id="predict")
            stop = gr.Button("Cancel", elem_id="cancel")
        key = gr.State("")

        def show(path: Any, sample: str) -> Any:
            return self._preview(card, path, sample)

        def answer(marks: Any, path: Any, sample: str) -> Any:
            return self._marked(card, [item.name for item in drawn], marks, path, sample)

        def written(marks: Any, *given: str) -> Any:
            found = marks_of({item.name: text for item, text in zip(drawn, given, strict=True)})
            marks = marks if isinstance(marks, dict) else {}
            return {**marks, "marks": found, "serial": int(marks.get("serial") or 0) + 1}

        taken = [file, sample]
        file.upload(lambda: "", None, sample, **_HIDDEN)
        gr.on([file.change, sample.change], show, taken, [picture, note], **_HIDDEN)
        picture.input(answer, [picture, *taken], [picture, note, *texts], trigger_mode="always_last", **_HIDDEN)
        for text in texts:
            text.submit(written, [picture, *texts], picture, **_HIDDEN)
            text.blur(written, [picture, *texts], picture, **_HIDDEN)
        given = [*taken, *texts, *needed, *optional]
        # A lambda stays a generator whatever checks types around functions.
        start.click(
            lambda path, sample, *values: (
                yield from self._predict(card, path, sample, list(zip(order, values, strict=True)))
            ),
            given, [key, *outputs], **_HIDDEN,
        )  # fmt: skip
        stop.click(self._cancel, key, None, **_HIDDEN)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def _asked(self, card: Plugin, path: Any, sample: str, values: list[tuple[Any, Any]], folder: Path) -> Asked:
        """A request as the API would have it. Raises ``ZooError``."""
        settings = self.house.settings
        intake = Intake(card, folder, Budget(settings.upload, settings.files))
        if sample:
            intake.text(card.primary_input.name, sample)
        if path and not sample:
            put(intake, card.primary_input, path, self.uploads)
        if card.primary_input.kind == "volume" and len(intake.inputs) > 1:  # the files of a series
            intake.inputs = [str(together(folder / "series", intake.inputs))]
        for item, value in values:
            put(intake, item, value, self.uploads)
        return intake.asked(self.house.entry(card.name).name)

    def _preview(self, card: Plugin, path: Any, sample: str) -> tuple[Any, str]:
        if not path and not sample:
            return {}, ""

        def work(ticket: Ticket[Any]) -> Any:
            from zoo.serve.page import views

            return views.preview(self.house.pool(), asked)

        try:
            with self.house.desk.place(), _folder(self.house) as folder:
                asked = self._asked(_without_options(card), path, sample, [], folder)
                view = self.house.desk.submit(work).future.result()
        except ZooError as error:
            return {}, words.refusal(str(error))
        value = {"picture": self._keep(view.picture), "width": view.width, "height": view.height, "marks": []}
        return value, f"<p>{view.width} x {view.height} px{', ' + view.note if view.note else ''}</p>"

    def _marked(self, card: Plugin, drawn: list[str], value: Any, path: Any, sample: str) -> tuple[Any, ...]:
        """Marks as texts; and where the model holds conversations, its answer to the clicks as a layer."""
        value = value if isinstance(value, dict) else {}
        texts = [text_of(value.get("marks"), name) for name in drawn]
        clicks = [item.name for item in card.options if item.kind == "click"]
        if not clicks:
            return (gr.skip(), "", *texts)
        given = [
            one["value"] for one in value.get("marks") or []
            if isinstance(one, dict) and one.get("option") == clicks[0] and len(one.get("value") or []) == 3
        ]  # fmt: skip

        def work(ticket: Ticket[Any]) -> Any:
            from zoo.serve.page import views

            self._sessions = self._sessions or views.Sessions()
            return self._sessions.answer(self.house.pool(), asked, f"{card.name} {value.get('picture')}", given)

        try:
            with self.house.desk.place(), _folder(self.house) as folder:
                asked = self._asked(_without_options(card), path, sample, [], folder)
                layer = self.house.desk.submit(work).future.result()
        except ZooError as error:
            return (gr.skip(), words.refusal(str(error)), *texts)
        covered = self._keep(layer) if layer else ""
        return ({**value, "overlay": covered}, "", *texts)

    def _predict(self, card: Plugin, path: Any, sample: str, values: list[tuple[Any, Any]]) -> Iterator[Any]:
        """Key of the ticket, words, figure, table, mask, files, record: as they come."""
        key = secrets.token_urlsafe(8)
        nothing: tuple[Any, ...] = (None, [], None, None, None)
        try:
            with self.house.desk.place(), _folder(self.house) as folder:
                asked = self._asked(card, path, sample, values, folder)
                asked.formats, asked.figure = ("zip",), True
                ticket = self.tickets[key] = self.house.predict(asked)
                while not ticket.future.done():
                    yield (key, words.running(ticket), *nothing)
                    time.sleep(0.2 if ticket.state == "running" else 0.05)
                yield (key, *self._shown(ticket.future.result()))
        except ZooError as error:
            yield (key, words.refusal(str(error)), *nothing)
        finally:
            if (ticket := self.tickets.pop(key, None)) is not None:  # the visitor may have gone
                ticket.cancel()

    def _shown(self, answer: Any) -> tuple[Any, ...]:
        from zoo.serve import answers
        from zoo.serve.page import views

        first: dict[str, str] = next((one for one in answer.files if one), {})
        mask = views.mask_picture(answer.folder / first["mask"]) if "mask" in first else None
        files = [str(answer.folder / name) for one in answer.files for name in one.values()]
        files.insert(0, str(answers.packed(answer)))
        figure = str(answer.folder / first["figure"]) if "figure" in first else None
        record = answer.results[0] if len(answer.results) == 1 else answer.results
        return words.told(answer.results), figure, words.table(answer.results), mask, files, record

    def _cancel(self, key: str) -> None:
        if (ticket := self.tickets.get(key)) is not None:
            ticket.cancel()

    def _keep(self, picture: bytes) -> str:
        """The address of a picture, for a while."""
        key = secrets.token_urlsafe(12)
        self.pictures[key] = picture
        while len(self.pictures) > PICTURES:
            self.pictures.popitem(last=False)
        return f"../pictures/{key}"


class _folder:
    """A folder of a request, gone afterwards; errors call files what their sender called them."""

    def __init__(self, house: Any) -> None:
        self.path: Path = house.temporary.new()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, ZooError):
            error.args = (scrubbed(str(error), self.path), *error.args[1:])
        shutil.rmtree(self.path, ignore_errors=True)


def _outputs() -> list[gr.components.Component]:
    picture: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
    outputs = [
        gr.HTML(elem_id="told"),
        gr.Image(label="Figure", alt_text="The figure", elem_id="figure", show_label=False, **picture),
        gr.Dataframe(headers=["input", "what", "value"], label="Numbers", interactive=False, elem_id="numbers"),
        gr.Image(label="Mask", alt_text="The mask", elem_id="mask", height=300, **picture),
        gr.File(label="All files", file_count="multiple", interactive=False, elem_id="files"),
    ]
    with gr.Accordion("Record", open=False):
        outputs.append(gr.JSON(label="Record", show_label=False, elem_id="record"))
    return outputs


def _samples(card: Plugin) -> list[tuple[str, str]]:
    """Inputs to try: those of the card first."""
    first = [spec for spec in (card.sample, card.phantom) if spec]
    if card.phantom:
        first += [f"{card.phantom}?seed={seed}" for seed in (7, 8)]
    named = {one.spec: f"{one.spec}: {one.title}" for one in SAMPLES.values()}
    rest = [spec for spec in named if spec not in first] if card.primary_input.kind in ("image", "volume") else []
    return [("none", ""), *((named.get(spec, spec), spec) for spec in [*first, *rest])]


def _without_options(card: Plugin) -> Plugin:
    """The card with its input alone: what is needed beside it isn't needed to look at it."""
    return replace(card, inputs=card.inputs[:1])
