"""What CEmb-SAM answers: the mask, the condition it used, and how much the condition matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PILImage

from zoo import figure, media
from zoo.metrics import dice
from zoo.models.cemb_sam import plugin
from zoo.nn.promptable.drawing import draw_prompts
from zoo.nn.promptable.prompts import Prompt, near_box
from zoo.prediction import Segmentation


class Answer(NamedTuple):
    """Under one condition (or, of a network without any, altogether)."""

    probability: Float[np.ndarray, "n h w"]  # of each object
    quality: Float[np.ndarray, " n"]  # the IoU that the network expects


SURE = 0.9
"""From which probability on an inferred condition is taken."""


def said_of_masks(mean: Float[np.ndarray, "n h w"], near: Float[np.ndarray, "n h w"], cut: float) -> list[str]:
    """Which boxes stayed empty, and where a mask was cut off because it left its box."""
    notes = []
    for i, (all_, kept) in enumerate(zip(mean, near, strict=True), start=1):
        which = "the box" if len(mean) == 1 else f"box {i}"
        if not (kept >= cut).any():
            notes.append(
                f"nothing in {which} reaches the threshold of {cut:g} (at most {kept.max():.2f}); its mask is empty"
            )
        elif (share := float(((all_ >= cut) & (kept < cut)).sum() / (all_ >= cut).sum())) > 0.02:
            notes.append(f"{100 * share:.0f} % of the mask lay farther than a tenth beyond {which} and was cut off")
    return notes


@dataclass(kw_only=True)
class PromptedSegmentation(Segmentation):
    """A segmentation that was asked for with prompts. ``mask`` is the union of ``objects``."""

    prompts: Sequence[Prompt]
    objects: UInt8[np.ndarray, "n h w"]  # a binary mask for each prompt
    quality: Mapping[str, float]  # expected IoU, by condition
    condition: str  # empty where the network knows none, and where it isn't known
    inferred: bool = False
    known: Mapping[str, float] = field(default_factory=dict)  # how probable each condition is, if inferred
    others: Mapping[str, np.ndarray] = field(default_factory=dict)  # the union under every condition tried

    @classmethod
    def of(
        cls,
        picture: media.Image,
        prompts: Sequence[Prompt],
        answers: Mapping[str, Answer],
        *,
        known: Mapping[str, float],
        inferred: bool,
        threshold: float,
        notes: tuple[str, ...] = (),
    ) -> PromptedSegmentation:
        """``known``: how probable the conditions are; one that is sure decides, else the mask is the mean of all."""
        cut = max(threshold, 1e-6)
        best = max(known, key=lambda name: known[name])
        chosen = best if known[best] >= SURE else ""
        weights = {chosen: 1.0} if chosen or not best else {name: known[name] for name in answers}
        mean: np.ndarray = sum(share * answers[name].probability for name, share in weights.items())  # type: ignore[assignment]
        mean = mean / sum(weights.values())
        near = [near_box(mean.shape[1:], prompt) for prompt in prompts]
        probability = np.stack([mean_ * where for mean_, where in zip(mean, near, strict=True)])
        objects = (probability >= cut).astype(np.uint8)
        expected = {name: float(a.quality.mean()) for name, a in answers.items() if np.isfinite(a.quality).all()}
        return cls(
            options={"condition": chosen or None, "condition_inferred": inferred and bool(chosen)},
            notes=(*notes, *said_of_masks(mean, probability, cut)),
            measurements={f"expected IoU {name}".strip(): round(value, 4) for name, value in expected.items()},
            image=picture,
            mask=objects.max(0),
            labels=plugin.labels,
            probability=probability.max(0).astype(np.float32),
            prompts=prompts,
            objects=objects,
            quality=expected,
            condition=chosen,
            inferred=inferred,
            known=known if inferred else {},
            others={
                name: np.any([(one >= cut) & where for one, where in zip(a.probability, near, strict=True)], axis=0)
                for name, a in answers.items()
            },
        )

    def summary(self) -> str:
        count = f"{len(self.prompts)} boxes, " if len(self.prompts) > 1 else ""
        expected = f", expected IoU {self.quality[self.condition]:.2f}" if self.condition in self.quality else ""
        under = f"; {self._condition()}" if self._condition() else ""
        return f"{count}{super().summary()}{under}{expected}"

    def _condition(self) -> str:
        if self.inferred and not self.condition:
            return "condition not known"
        return f"{self.condition} ({'inferred' if self.inferred else 'given'})" if self.condition else ""

    def to_dict(self) -> dict[str, Any]:
        boxes = [[p.box.x0, p.box.y0, p.box.x1, p.box.y1] for p in self.prompts if p.box is not None]
        return {
            **super().to_dict(),
            "boxes": boxes,
            "object_area_fraction": [round(float(one.mean()), 6) for one in self.objects],
            "condition": self.condition or None,
            "condition_inferred": self.inferred and bool(self.condition),
            "condition_probabilities": {name: round(share, 4) for name, share in self.known.items()},
            "expected_iou": {name or "all": round(value, 4) for name, value in self.quality.items()},
            "agreement_of_conditions": {f"{a} / {b}": round(dice(x, y), 4) for (a, x), (b, y) in self._pairs()},
        }

    def _pairs(self) -> list[Any]:
        items = list(self.others.items())
        return [(one, other) for i, one in enumerate(items) for other in items[i + 1 :]]

    def panels(self) -> list[figure.Panel]:
        asked = draw_prompts(self.image.thumbnail(figure.PANEL_SIDE), self.prompts, self.mask.shape)
        found = figure.overlay(self.image.thumbnail(figure.PANEL_SIDE), self.mask, opacity=0.45)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        assert self.probability is not None
        under = f": {self._condition()}" if self._condition() else ""
        panels = [
            figure.Panel("input and prompts", asked, spacing=spacing, pixels=self.mask.shape[1]),
            figure.Panel(f"mask{under}", found),
            figure.Panel("probability", figure.heatmap(self.probability)),
        ]
        if len(self.others) > 1:
            panels.append(figure.Panel("the same under each condition; Dice with the mask", self._strip()))
        return panels

    def _strip(self) -> PILImage.Image:
        """A small overlay for each condition."""
        chosen, picture = self.mask > 0, self.image.thumbnail(figure.PANEL_SIDE)
        tiles = []
        for name, mask in self.others.items():
            expected = [f"expected IoU {self.quality[name]:.2f}"] if name in self.quality else []
            agreement = [] if name == self.condition else [f"Dice {dice(mask, chosen):.2f}"]
            title = f"{name} {100 * self.known[name]:.0f} %" if name in self.known else name
            small = figure.overlay(picture, mask.astype(np.uint8), opacity=0.45)
            tiles.append(figure.Tile(small, [title, ", ".join(expected + agreement)], bold=name == self.condition))
        return figure.tiles(tiles)

    def files(self) -> dict[str, Any]:
        more = super().files()
        if len(self.objects) > 1:  # one number for each box; where boxes overlap, the last
            numbered = np.zeros(self.mask.shape, np.uint8)
            for i, one in enumerate(self.objects[:255], start=1):
                numbered[one > 0] = i

            def write(path: Path) -> Path:
                return media.write_mask(path, numbered, like=self.image)

            more = {**more, "objects": write}
        return more
