"""One room for all pictures: one palette, one layout, told apart by colour-blind readers and in greyscale.

- here, drawn with Pillow alone, for predictions: panels side by side or in rows (``compose``, ``rows``), ``tiles`` with
  captions, ``bars``, ``grouped_bars``, ``columns``, ``curves``, ``gauge``, ``matrix``, ``spans``, ``statement``,
  ``prose``; ``overlay``, ``contour``, ``heatmap``, ``heat_over``, ``framed``, ``point_overlay``, ``slices``, ``absent``
- over a finished figure: a ``banner`` above it, a word ``across`` it
- ``zoo.figure.plots``: charts of a training or an evaluation by matplotlib, which nothing else in the house imports
- ``zoo.figure.points``: clouds of points as pictures, their surfaces, and both as files; needs SciPy
- ``zoo.figure.body``: skin lesions by the site of the body they lie on

A plugin says which data goes into which panel, and leaves the drawing to this room.
"""

from zoo.figure.charts import Bar, Curve, bars, columns, curves, gauge, grouped_bars, matrix, statement
from zoo.figure.layout import (
    PANEL_SIDE,
    LegendEntry,
    Panel,
    Tile,
    colour,
    compose,
    fit,
    font,
    rows,
    slices,
    tiles,
    to_picture,
)
from zoo.figure.marks import across, banner
from zoo.figure.measures import Span, prose, spans
from zoo.figure.overlays import absent, contour, framed, heat_over, heatmap, overlay, point_overlay

__all__ = [
    "PANEL_SIDE",
    "Bar",
    "Curve",
    "LegendEntry",
    "Panel",
    "Span",
    "Tile",
    "absent",
    "across",
    "banner",
    "bars",
    "colour",
    "columns",
    "compose",
    "contour",
    "curves",
    "fit",
    "font",
    "framed",
    "gauge",
    "grouped_bars",
    "heat_over",
    "heatmap",
    "matrix",
    "overlay",
    "point_overlay",
    "prose",
    "rows",
    "slices",
    "spans",
    "statement",
    "tiles",
    "to_picture",
]
