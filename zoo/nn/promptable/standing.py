"""What a model on a frozen SAM has: the SAM is loaded when it's first needed, and is no part of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import SamModel

from zoo.errors import OptionError
from zoo.nn.promptable.decoder import DecoderConfig
from zoo.nn.promptable.promptable import Promptable
from zoo.nn.promptable.sam import load_sam


class OnSam:
    """Beside ``Model``, and before it among the bases: ``class Mine(OnSam, Model[...])``.

    The configuration says which SAM: ``sam``, and ``image_size`` (px, or None for its own). Where it also holds the
    sizes of a mask decoder of the model's own, ``decoder``, they must be those of that SAM's.
    """

    if TYPE_CHECKING:
        config: Any
        plugin: ClassVar[Any]

        @property
        def device(self) -> torch.device: ...

    _base: Promptable | None = None  # no Module, so that torch takes the SAM for no part of this one

    @property
    def base(self) -> Promptable:
        """The frozen SAM. Raises ``WeightsError`` when it can't be had, ``OptionError`` when it is of other sizes."""
        if self._base is None:
            sam = load_sam(self.config.sam, needed_by=self.plugin.name, image_size=self.config.image_size)
            self._take(sam)
            self._base = Promptable(sam)
        if self._base.device != self.device:
            self._base.sam.to(self.device)
        return self._base

    @base.setter
    def base(self, promptable: Promptable) -> None:
        self._base = promptable

    def _take(self, sam: SamModel) -> None:
        """Look at a SAM that was just loaded, and change in it what the model changes. Raises ``OptionError``."""
        if hasattr(self.config, "decoder") and DecoderConfig.of(sam) != self.config.decoder:
            raise OptionError(
                f"the decoder of {self.plugin.name} has other sizes than that of {self.config.sam}; "
                "train it on the SAM that it is to be used with"
            )
