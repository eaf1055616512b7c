"""How far `map-vessel` agrees with classical ridge filters on scikit-image's fundus photograph.

A check without a human reference: each filter is thresholded to the vessel area that the model found, inside the field
of view and away from its rim. The numbers are reported, never asserted.
"""

from __future__ import annotations

import numpy as np
import skimage.data
from scipy.ndimage import binary_erosion
from skimage.filters import frangi, sato

import zoo
from zoo.data.fundus import field_of_view

SCALES = range(2, 12, 2)  # px, half widths of the vessels of this photograph
RIM = 20  # px


def main() -> None:
    photograph = skimage.data.retina()
    field = field_of_view(photograph / 255.0)
    inside = binary_erosion(field, iterations=RIM)
    model = zoo.load("map-vessel", device="cpu").predict("sample:retina").mask > 0
    print(f"map-vessel marks {model[field].mean():.1%} of the field of view", end=", ")
    model &= inside
    print(f"{model[inside].mean():.1%} of it without a rim of {RIM} px, where the filters are compared")
    for ridge in (frangi, sato):
        response = ridge(photograph[..., 1] / 255.0, sigmas=SCALES, black_ridges=True)
        classical = (response >= np.quantile(response[inside], 1 - model[inside].mean())) & inside
        dice = 2 * (model & classical).sum() / (model.sum() + classical.sum())
        print(f"{ridge.__name__}: Dice {dice:.3f}, equal pixels {(model == classical)[inside].mean():.3f}")


if __name__ == "__main__":
    main()
