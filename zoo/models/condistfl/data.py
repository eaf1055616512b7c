"""Who has annotated what, and patches of it: volumes as a client sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.case import Case
from zoo.data.scans import Kept, Scan, View, bytes_of, draw_patches, read_case
from zoo.data.support import Annotation
from zoo.errors import DataError
from zoo.models.condistfl import plugin

SIDES = ("right", "left")


def annotated(case: Case, classes: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Which of ``classes`` (numbers from 1) the mask of a case tells, and by which of its values.

    A class that isn't split into sides has both of the mask's; an organ whose tumour is no class of its own has it.
    ``attributes["labelled"]``, if there, are the values that somebody has looked for.
    """
    names = tuple(case.attributes.get("labels", ()))
    known = case.attributes.get("labelled", range(1, len(names) + 1))
    found = {}
    for number, wanted in enumerate(classes, start=1):
        own = {wanted} | ({f"{wanted} tumour"} if f"{wanted} tumour" not in classes else set())
        values = tuple(value for value, name in enumerate(names, start=1) if _whole(name) in own)
        if any(value in known for value in values):
            found[number] = values
    return found


def _whole(name: str) -> str:
    side, _, rest = name.partition(" ")
    return rest if side in SIDES and rest else name


def read_labelled(case: Case, classes: Sequence[str], wanted: Sequence[int], view: View) -> Scan:
    """A volume with a mask of each of the classes numbered ``wanted``. Raises ``DataError`` where it has no such."""
    there = annotated(case, classes)
    if missing := [classes[number - 1] for number in wanted if number not in there]:
        raise DataError(f"case {case.id} has no annotation of {missing[0]!r}, which its client is to train on")
    marks = {classes[number - 1]: Annotation("mask", there[number]) for number in wanted}
    return read_case(case, view, marks, plugin.name)


@dataclass(frozen=True)
class Volumes:
    """A client's volumes, and the numbers of the classes that it has annotated."""

    cases: Sequence[Case]
    classes: tuple[str, ...]
    foreground: tuple[int, ...]
    view: View
    patch: tuple[int, ...]
    scans: Kept[Scan]
    crops: int = 2  # of a volume, before the next one is drawn
    positive: float = 2 / 3

    @classmethod
    def of(
        cls, cases: Sequence[Case], classes: tuple[str, ...], foreground: tuple[int, ...], view: View,
        patch: tuple[int, ...], crops: int = 2, positive: float = 2 / 3,
    ) -> Volumes:  # fmt: skip
        scans = Kept(lambda place: read_labelled(cases[place], classes, foreground, view), bytes_of)
        return cls(cases, classes, foreground, view, patch, scans, crops, positive)

    def __len__(self) -> int:
        return len(self.cases)

    def batch(self, count: int, rng: np.random.Generator) -> tuple[Float[Tensor, "b 1 x y z"], Int[Tensor, "b x y z"]]:
        """Patches in [0, 1] and labels; two of three have their centre in the foreground."""
        names = [self.classes[number - 1] for number in self.foreground]
        size = (self.patch[0], self.patch[1], self.patch[2])
        xs: list[Tensor] = []
        ys: list[Tensor] = []
        while sum(map(len, xs)) < count:
            scan = self.scans[int(rng.integers(len(self.cases)))]
            taken = min(self.crops, count - sum(map(len, xs)))
            x, masks = draw_patches(scan, names, size, taken, self.positive, rng)
            y = torch.zeros(masks.shape[0], *masks.shape[2:], dtype=torch.long)
            for place, number in enumerate(self.foreground):
                y[masks[:, place] > 0] = number
            xs.append(x)
            ys.append(y)
        return torch.cat(xs), torch.cat(ys)


def augmented(
    x: Float[Tensor, "b 1 *grid"], y: Int[Tensor, " b *grid"], rng: np.random.Generator
) -> tuple[Float[Tensor, "b 1 *grid"], Int[Tensor, " b *grid"]]:
    """As released, each with its chance: turns of up to 30 degrees about every axis, zoom, noise, blur, brightness,
    contrast, low resolution, gamma, flips. Chances and ranges are the released code's.
    """
    from monai import transforms

    both, tri, turn, blur = ["x", "y"], ("bilinear", "nearest"), np.pi / 6, (0.5, 1.5)
    chain = transforms.Compose(
        [
            transforms.RandRotated(both, turn, turn, turn, prob=0.2, mode=tri, padding_mode=("border", "zeros")),
            transforms.RandZoomd(both, 0.2, 0.7, 1.4, mode=("trilinear", "nearest"), padding_mode="constant"),
            transforms.RandGaussianNoised("x", prob=0.15, std=0.1 / 6.24),
            transforms.RandGaussianSmoothd("x", blur, blur, blur, prob=0.15),
            transforms.RandScaleIntensityd("x", 0.3, prob=0.15),
            transforms.RandScaleIntensityFixedMeand("x", factors=(-0.35, 0.5), prob=0.15, preserve_range=True),
            transforms.RandSimulateLowResolutiond("x", prob=0.25, zoom_range=(0.5, 1.0)),
            transforms.RandAdjustContrastd("x", prob=0.15, gamma=(0.8, 1.2)),
            transforms.RandAdjustContrastd("x", prob=0.15, gamma=(0.8, 1.2), invert_image=True),
            *(transforms.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        ]
    )
    chain.set_random_state(int(rng.integers(2**31)))
    made = [chain({"x": one, "y": label[None].float()}) for one, label in zip(x, y, strict=True)]
    images = torch.stack([torch.as_tensor(np.asarray(one["x"])) for one in made]).float()
    return images, torch.stack([torch.as_tensor(np.asarray(one["y"]))[0] for one in made]).round().long()
