"""The order and the names of the checks, the limits they apply, and how one ends. Light: nothing is imported here."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEMO_BYTES = 1 << 20
"""Demo weights travel in every installation, so they are small."""

SAME = 1e-4
"""How far a probability may differ between a batch and its images one by one."""

SAME_ON_CUDA = 5e-3
"""... and between the CPU and a CUDA device, which add in another order."""

SAME_LABELS = 1e-3
"""Share of the pixels whose label may differ where a probability lies at the threshold."""

TRAINING_CASES = 6
TRAINING_STEPS = 12


class Failed(Exception):
    """A promise that a plugin doesn't keep; the message says which, and what to do."""


class Skipped(Exception):
    """A check that can't be made here; the message says why."""


@dataclass(frozen=True)
class Rule:
    """One check: ``test`` is a function of ``zoo.conformance.checks``; ``needs`` are those that must pass before it."""

    name: str
    test: str
    summary: str
    needs: tuple[str, ...] = ()


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("card", "card", "its metadata are complete"),
        Rule("light import", "light_import", "its card is read without importing torch"),
        Rule("anatomy", "anatomy", "its folder is laid out as all others are, in files of a size that one reads"),
        Rule("build", "build", "the model builds from its default configuration"),
        Rule("configuration", "configuration", "configurations survive the way to JSON and back", ("build",)),
        Rule("save and load", "save_and_load", "what is saved is loaded again, bit for bit", ("build",)),
        Rule("demo weights", "demo_weights", "they are there, small, labelled, and load", ("build",)),
        Rule("answer", "answer", "the demo weights still say what was stored beside them", ("demo weights",)),
        Rule("sample", "sample", "it predicts on the real image that the card names", ("build",)),
        Rule("phantom", "phantom", "it predicts on the phantom that the card names", ("build",)),
        Rule("deterministic", "deterministic", "the same input gives the same prediction", ("build",)),
        Rule("batch", "batch", "two inputs together give what they give one by one", ("build",)),
        Rule("cuda", "cuda", "a CUDA device gives what the CPU gives", ("build",)),
        Rule("json", "as_json", "a prediction is plain data that JSON can hold", ("build",)),
        Rule("figure", "figure", "a prediction draws a picture, and saves its files", ("build",)),
        Rule("options", "options", "every optional input works and refuses wrong values", ("build",)),
        Rule(
            "named inputs", "named_inputs", "all of its named inputs are read, refused and recorded alike", ("build",)
        ),
        Rule("bad images", "bad_images", "what can't be used is refused in one sentence", ("build",)),
        Rule(
            "training",
            "training",
            "the preset check or demo makes steps that lower the loss",
            ("build",),
        ),
        Rule("claim", "claim", "the claim's quick mode runs", ("build",)),
    )
}
