"""What the check finds in predictions of every kind; what their classes refuse by themselves is in tests/kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import zoo
from zoo import media
from zoo.conformance.kinds import fault
from zoo.kinds import (
    Box,
    Detection,
    Embedding,
    Measurement,
    MultiTask,
    Quantity,
    Reconstruction,
    Report,
    Token,
)
from zoo.prediction import Classification

IMAGE = media.read(np.random.default_rng(0).random((40, 60)).astype(np.float32))
CARD = replace(zoo.info("meldd"), labels=("nodule", "mass"))
GREY = np.ones((4, 5), np.float32)


def boxes(*some: Box, labels: tuple[str, ...] = ("nodule", "mass")) -> Detection:
    return Detection(image=IMAGE, boxes=some, labels=labels)


GOOD = [
    boxes(Box("mass", 0.5, 0, 0, 60, 40)),
    Measurement(image=IMAGE, values={"nodule": Quantity(3.0, "mm", (2.0, 4.0))}),
    Report(image=IMAGE, text="a b", tokens=[Token("a", 1.0), Token(" b", 0.5)], findings_by_name={"nodule": 0.5}),
    Reconstruction(image=IMAGE, output=GREY, start=GREY, scores={"psnr_db": 20.0}),
    Embedding(image=IMAGE, vector=np.ones(3, np.float32), space="vit"),
    MultiTask(image=IMAGE, parts={"a": Classification(image=IMAGE, probabilities={"nodule": 0.4, "mass": 0.6})}),
]
BAD = [
    (boxes(Box("mass", 0.5, 0, 0, 61, 40)), "beyond the image of 60 x 40"),
    (boxes(Box("mass", 0.5, 0, 0, 6, 4), labels=("mass",)), "its classes are mass"),
    (Measurement(image=IMAGE, values={"size": Quantity(3.0, "mm")}), "it measures size"),
    (Measurement(image=IMAGE, values={"mass": Quantity(5.0, "mm", (2.0, 4.0))}), "leaves out its value"),
    (Report(image=IMAGE, text="a b", tokens=[Token("a", 1.0)]), "tokens joined"),
    (Report(image=IMAGE, text="a", tokens=[Token("a", 1.5)]), r"token must lie"),
    (Report(image=IMAGE, text="a", findings_by_name={"nodule": 2.0}), "finding must lie"),
    (Reconstruction(image=IMAGE, output=GREY, start=GREY * np.nan), "starts from holds NaN"),
    (Reconstruction(image=IMAGE, output=GREY, start=GREY, scores={"psnr_db": float("inf")}), "not finite"),
    (Embedding(image=IMAGE, vector=np.ones(3, np.float32), space=""), "name its space"),
    (MultiTask(image=IMAGE, parts={"a": Classification(image=IMAGE, probabilities={"cat": 1.0})}), "a gives cat"),
]


@pytest.mark.parametrize("prediction", GOOD, ids=lambda one: one.kind)
def test_what_is_right_passes(prediction) -> None:
    assert fault(prediction, CARD) == ""


@pytest.mark.parametrize(("prediction", "said"), BAD, ids=[said for _, said in BAD])
def test_what_is_wrong_is_named(prediction, said: str) -> None:
    assert said in fault(prediction, CARD)
