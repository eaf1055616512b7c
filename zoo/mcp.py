"""The zoo as tools for agents, by the Model Context Protocol on standard input and output: ``zoo mcp``.

``list``, ``info``, ``samples`` and ``predict`` do what the commands of these names do and refuse what they refuse, in
the same sentences. While it serves, whatever else prints goes to stderr.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import cards, registry, samples
from zoo._version import __version__
from zoo.errors import MissingExtraError, OptionError, ZooError
from zoo.text import finite

if TYPE_CHECKING:
    from zoo.model import Model

MOST = 16
"""Inputs of one call of ``predict``."""
KEPT = 2
"""Models that stay in memory."""

INSTRUCTIONS = (
    "Models for medical images from published papers, for research and not for clinical use. Call list, then info for "
    "what a model takes, then predict. Results carry notes and a disclaimer: pass them on."
)


def server(out: Path, *, device: str = "auto", weights_of: Callable[[str], str | None] = lambda model: None) -> Any:
    """The server; ``run()`` serves. ``out``: the folder of results. ``weights_of``: those of a model by default.

    Raises ``MissingExtraError`` without the package ``mcp``.
    """
    try:
        from mcp.server.mcpserver import Image, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        raise MissingExtraError("zoo mcp", "mcp", "mcp") from None

    tools = _Tools(out, device, weights_of)
    made: Any = MCPServer("zoo", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")

    @made.tool(name="list")
    def list_(task: str | None = None, modality: str | None = None) -> list[dict[str, Any]]:
        """The installed models: name, task, modality and what each does; optionally of one task or modality."""
        chosen = registry.select(task=task, modality=modality)
        return [
            {"name": one.name, "task": card.task, "modality": card.modality, "summary": card.summary}
            for one in chosen
            if (card := one.plugin)
        ]

    @made.tool()
    def info(model: str) -> dict[str, Any]:
        """The card of one model: its inputs and options, outputs, labels, licence, paper and limits."""
        try:
            card = registry.info(model)
        except ZooError as error:
            raise ToolError(str(error)) from error
        return {**card.to_dict(), "example": cards.example(card), "bibtex": card.paper.bibtex()}

    @made.tool(name="samples")
    def samples_() -> list[dict[str, str]]:
        """Images to try a model on: real ones that installed libraries carry, and phantoms that a function draws."""
        from zoo.data.phantoms import PHANTOMS, summary

        real = [{"input": one.spec, "title": one.title} for one in samples.SAMPLES.values()]
        return real + [{"input": f"phantom:{name}", "title": summary(name)} for name in PHANTOMS]

    @made.tool(structured_output=False)
    def predict(
        model: str, inputs: list[str], options: dict[str, Any] | None = None, weights: str | None = None
    ) -> list[Any]:
        """Predict on images. For each input the result as JSON, with the files that were written, and its figure.

        inputs: paths of files or folders on this machine, sample:NAME or phantom:NAME. options: by the names that info
        lists. weights: demo, a folder, or hf://ORG/REPO.
        """
        content: list[Any] = []
        try:
            for record, figure in tools.predict(model, inputs, options or {}, weights):
                content += [record] if figure is None else [record, Image(path=figure)]
        except ZooError as error:
            raise ToolError(str(error)) from error
        return content

    return made


class _Tools:
    """What ``predict`` keeps between calls."""

    def __init__(self, out: Path, device: str, weights_of: Callable[[str], str | None]) -> None:
        self.out, self.device, self.weights_of = out, device, weights_of
        self._models: OrderedDict[tuple[str, str | None], Model] = OrderedDict()
        self._turn = threading.Lock()  # calls come in threads; one predicts at a time

    def predict(
        self, name: str, inputs: Sequence[str], given: dict[str, Any], weights: str | None
    ) -> list[tuple[dict[str, Any], Path | None]]:
        """Each result with its figure; a failed input among several has its error. Raises ``ZooError`` if all fail."""
        from zoo import inference
        from zoo import options as option_values

        card = registry.info(name)
        chosen = option_values.check(card, given, whole=not option_values.carry(card, inputs))
        found: list[Any] = inference.expand(card, inputs, chosen)
        if not 0 < len(found) <= MOST:
            raise OptionError(f"{len(found)} inputs are no number for one call; give 1 to {MOST}, or run: zoo predict")
        results: list[tuple[dict[str, Any], Path | None]] = []
        failed: list[ZooError] = []
        with self._turn:
            model = self._model(name, weights or self.weights_of(name))
            for one, outcome in inference.predict_each(model, found, **chosen):
                if isinstance(outcome, ZooError):
                    failed.append(outcome)
                    results.append(({"source": str(one), "error": str(outcome)}, None))
                    continue
                written = outcome.save(self.out, self._stem(outcome.source))
                figure = next((path for path in written if path.suffix == ".png"), None)
                record = finite({**outcome.to_dict(), "files": [str(path.resolve()) for path in written]})
                results.append((record, figure))
        if len(failed) == len(results):
            raise failed[0]
        return results

    def _model(self, name: str, weights: str | None) -> Model:
        from zoo import inference

        key = (name, weights)
        if key not in self._models:
            self._models[key] = inference.load(name, weights=weights, device=self.device)
        self._models.move_to_end(key)
        while len(self._models) > KEPT:
            self._models.popitem(last=False)
        return self._models[key]

    def _stem(self, source: str) -> str:
        """A stem that nothing in the folder has: no call overwrites what another wrote."""
        from zoo.media import stem_of

        stem = base = stem_of(source)[:100]
        taken = {path.name.casefold() for path in self.out.iterdir()} if self.out.is_dir() else set()
        count = 2
        while f"{stem}.json".casefold() in taken or f"{stem}.png".casefold() in taken:
            stem, count = f"{base}_{count}", count + 1
        return stem
