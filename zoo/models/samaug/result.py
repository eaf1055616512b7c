"""What SAMAug answers: the mask, the objects, and the priors that led there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image as PILImage

from zoo import figure as fig
from zoo import media
from zoo.metrics import dice
from zoo.prediction import Segmentation
from zoo.storage import write_file

SIDE = 320  # px of a panel


@dataclass(kw_only=True)
class AugmentedSegmentation(Segmentation):
    """A segmentation from an image and what SAM saw in it."""

    priors: Float[np.ndarray, "2 h w"]  # segmentation, boundary
    sam_masks: int | None  # how many masks the priors are made of; None: they were given
    augmented: UInt8[np.ndarray, "h w 3"]
    masks: Mapping[str, UInt8[np.ndarray, "h w"]]  # what the same network makes of each input, by its name
    instances: Int32[np.ndarray, "h w"] | None  # a number for each object; None where objects aren't told apart
    chosen: str  # raw, aug or mean: what the mask was made from
    entropy: Mapping[str, float]  # nats, by input

    def summary(self) -> str:
        count = "" if self.instances is None else f"{int(self.instances.max(initial=0))} objects, "
        return f"{count}{super().summary()}; from the {_NAMES[self.chosen]}"

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "objects": None if self.instances is None else int(self.instances.max(initial=0)),
            "chosen_input": self.chosen,
            "entropy": {name: round(value, 6) for name, value in self.entropy.items()},
            "sam_masks": self.sam_masks,
            "dice_with_raw": round(dice(self.mask > 0, self.masks["raw"] > 0), 4),
        }

    def panels(self) -> list[fig.Panel]:
        return [panel for _, row in self._rows() for panel in row]

    def figure(self) -> PILImage.Image:
        """The paper's strip above; the mask beside what the same network makes of the other input below."""
        return fig.rows(self._rows(), legend=self.legend(), title=self.title, footer=self.footer, side=SIDE)

    def _rows(self) -> list[tuple[str, list[fig.Panel]]]:
        picture = self.image.thumbnail(fig.PANEL_SIDE)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        segmentation, boundary = self.priors
        top = max(1.0, float(segmentation.max(initial=0)))
        masks = "given" if self.sam_masks is None else f"{self.sam_masks} masks"
        strip = [
            fig.Panel("image", picture, spacing=spacing, pixels=self.mask.shape[1]),
            fig.Panel(f"segmentation prior ({masks}; brightest: {top:.1f})", fig.heatmap(segmentation / top)),
            fig.Panel("boundary prior", fig.heatmap(boundary)),
            fig.Panel("augmented image", self.augmented),
        ]
        found = [fig.Panel(f"prediction, from the {_NAMES[self.chosen]}", self._painted(self.mask))]
        other = "aug" if self.chosen == "raw" else "raw"
        if other in self.masks:
            found.append(fig.Panel(f"the same network on the {_NAMES[other]}", self._painted(self.masks[other])))
        if self.instances is not None:
            numbered = np.where(self.instances > 0, 1 + (self.instances - 1) % 7, 0)
            count = int(self.instances.max(initial=0))
            found.append(fig.Panel(f"{count} objects, in seven colours", fig.overlay(picture, numbered, 0.5)))
        assert self.probability is not None
        found.append(fig.Panel("probability", fig.heatmap(self.probability)))
        return [("what SAM sees, and the input made of it", strip), ("what the network makes of it", found)]

    def _painted(self, mask: UInt8[np.ndarray, "h w"]) -> PILImage.Image:
        picture = self.image.thumbnail(fig.PANEL_SIDE)
        return fig.contour(fig.overlay(picture, mask, opacity=0.35), mask)

    def files(self) -> dict[str, Callable[[Path], Path]]:
        more = {**super().files(), "priors": self._write_priors}
        if self.instances is not None:
            instances = self.instances
            more["instances"] = lambda path: media.write_mask(path, instances, like=self.image)
        return more

    def _write_priors(self, path: Path) -> Path:
        import torch
        from safetensors.torch import save

        return write_file(
            path.with_name(path.name + ".safetensors"), save({"priors": torch.from_numpy(self.priors).half()})
        )


_NAMES = {"raw": "raw image", "aug": "augmented image", "mean": "sum of both inputs' logits"}
