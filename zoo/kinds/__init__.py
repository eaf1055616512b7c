"""Kinds of prediction beside a class and a mask: each with its data, figure, columns of a table, JSON and files.

- :class:`Detection`: boxes with class and score
- :class:`Measurement`: values with unit and interval, of a regression or a ruler
- :class:`MultiTask`: named parts, each a prediction of its own
- :class:`Report`: text with the probability of its tokens, and findings
- :class:`Reconstruction`: an image made of its input, with the error where the truth is known
- :class:`VolumeSegmentation`: a mask of a volume, in three planes and millilitres
- :class:`Embedding`: a vector that stands for the image

``zoo.prediction`` has the base, classification and segmentation. Needs no torch.
"""

from zoo.kinds.detection import Box, Detection
from zoo.kinds.embedding import Embedding
from zoo.kinds.measurement import Measurement, Quantity
from zoo.kinds.multitask import MultiTask
from zoo.kinds.reconstruction import Reconstruction
from zoo.kinds.report import Report, Token
from zoo.kinds.volume import VolumeSegmentation

__all__ = [
    "Box",
    "Detection",
    "Embedding",
    "Measurement",
    "MultiTask",
    "Quantity",
    "Reconstruction",
    "Report",
    "Token",
    "VolumeSegmentation",
]
