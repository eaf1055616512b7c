"""A zoo of medical-imaging papers, each a plugin that predicts, trains and re-tests its own claim.

    import zoo
    prediction = zoo.load("map-vessel").predict("photo.png")
    prediction.figure().show()

``import zoo`` is light: torch and everything else heavy is imported on first use.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING, Any

from zoo._version import __version__


class _Beside:
    """Finds ``zoo.registry`` and ``zoo.cli`` beside this folder, where a checkout has them, and nothing else there.

    Python started in a checkout finds this folder before an installed zoo, so it must find those two as well.
    """

    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in ("zoo.registry", "zoo.cli"):
            return None
        folder = os.path.join(cls.checkout, name.removeprefix("zoo."))
        return spec_from_file_location(name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])


if os.path.isfile(os.path.join(_Beside.checkout, "setup.py")):
    sys.meta_path.append(_Beside)

if TYPE_CHECKING:
    from zoo.claims import reproduce
    from zoo.errors import (
        DataError,
        MediaError,
        MissingExtraError,
        OptionError,
        PluginError,
        WeightsError,
        ZooError,
    )
    from zoo.evaluation import evaluate
    from zoo.hub import pull
    from zoo.inference import load, predict
    from zoo.kinds import Detection, Embedding, Measurement, MultiTask, Reconstruction, Report, VolumeSegmentation
    from zoo.model import Model
    from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo
    from zoo.prediction import Classification, Prediction, Provenance, Segmentation
    from zoo.publish import push
    from zoo.registry import info, list_models
    from zoo.training import train

_PUBLIC = {
    "load": "zoo.inference",
    "predict": "zoo.inference",
    "list_models": "zoo.registry",
    "info": "zoo.registry",
    "train": "zoo.training",
    "evaluate": "zoo.evaluation",
    "reproduce": "zoo.claims",
    "push": "zoo.publish",
    "pull": "zoo.hub",
    "Model": "zoo.model",
    "Plugin": "zoo.plugin",
    "Paper": "zoo.plugin",
    "Input": "zoo.plugin",
    "Output": "zoo.plugin",
    "WeightsInfo": "zoo.plugin",
    "Prediction": "zoo.prediction",
    "Provenance": "zoo.prediction",
    "Classification": "zoo.prediction",
    "Segmentation": "zoo.prediction",
    "Detection": "zoo.kinds",
    "Embedding": "zoo.kinds",
    "Measurement": "zoo.kinds",
    "MultiTask": "zoo.kinds",
    "Reconstruction": "zoo.kinds",
    "Report": "zoo.kinds",
    "VolumeSegmentation": "zoo.kinds",
    "ZooError": "zoo.errors",
    "MediaError": "zoo.errors",
    "PluginError": "zoo.errors",
    "OptionError": "zoo.errors",
    "WeightsError": "zoo.errors",
    "DataError": "zoo.errors",
    "MissingExtraError": "zoo.errors",
}

__all__ = [
    "Classification",
    "DataError",
    "Detection",
    "Embedding",
    "Input",
    "Measurement",
    "MediaError",
    "MissingExtraError",
    "Model",
    "MultiTask",
    "OptionError",
    "Output",
    "Paper",
    "Plugin",
    "PluginError",
    "Prediction",
    "Provenance",
    "Reconstruction",
    "Report",
    "Segmentation",
    "VolumeSegmentation",
    "WeightsError",
    "WeightsInfo",
    "ZooError",
    "__version__",
    "evaluate",
    "info",
    "list_models",
    "load",
    "predict",
    "pull",
    "push",
    "reproduce",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
