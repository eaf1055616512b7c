"""The base class of all networks in the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from zoo.plugin import Plugin
from zoo.prediction import Prediction, Provenance


class Model(nn.Module, PyTorchModelHubMixin):
    """A network with a typed configuration that predicts on what a user has.

    A subclass sets ``plugin`` and ``config_class`` (a frozen dataclass), builds its layers in ``__init__``, and
    implements ``predict``; ``predict_batch`` only if several inputs together are quicker than one by one.
    """

    plugin: ClassVar[Plugin]
    config_class: ClassVar[type]

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = self.config_class() if config is None else config
        self.provenance = Provenance(model=self.plugin.name)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def predict(self, image: Any, *args: Any, **options: Any) -> Prediction:
        """Predict on one input: a path, ``sample:NAME``, ``phantom:NAME``, array, tensor, PIL or ``zoo.media.Image``.

        Options are those the plugin declares. Raises ``MediaError`` for an input that can't be used and
        ``OptionError`` for a wrong option.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement predict")

    def predict_batch(self, images: Sequence[Any], *args: Any, **options: Any) -> Sequence[Prediction]:
        """Predict on several inputs; the same results as one by one."""
        return [self.predict(image, **options) for image in images]

    # PyTorchModelHubMixin's hooks: `from_pretrained`, `save_pretrained` and `push_to_hub` use our layout and checks.

    def _save_pretrained(self, save_directory: Path) -> None:
        from zoo.weights import save

        save(self, save_directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Publish this model with its card; ``options`` as for :func:`zoo.push`. Returns the address of the commit."""
        from zoo.hub import push

        return push(self, repo_id, **options).url or ""

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None, **_: Any) -> Model:
        from zoo import weights

        spec = model_id if Path(model_id).exists() else f"hf://{model_id}" + (f"@{revision}" if revision else "")
        return weights.load_into(cls, spec)
