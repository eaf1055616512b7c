"""What skin methods share: colour constancy, sites of the body, the layouts of ISIC 2019 and 2020 and of HAM10000."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from zoo.data.case import Case
from zoo.data.phantoms.skin import DIAGNOSES
from zoo.data.sets import Dataset, Entry, table_rows
from zoo.errors import DataError

SITES = ("head/neck", "palms/soles", "oral/genital", "lower extremity", "upper extremity", "torso")
"""Where on the body a lesion lies, as the ISIC archive divides it."""


def site_of(text: str) -> str | None:
    """The one of ``SITES`` that ``text`` names in the archive's spelling or a near one; None for "unknown" or nothing.

    Parts of the torso (anterior, posterior, lateral) are the torso. Raises ``ValueError`` for any other text.
    """
    plain = " ".join(text.lower().replace("-", " ").replace("/", " ").replace("_", " ").split())
    if plain in ("", "unknown", "nan", "na"):
        return None
    if plain.removesuffix(" torso") in ("anterior", "posterior", "lateral"):
        return "torso"
    for site in SITES:
        if plain == site.replace("/", " "):
            return site
    raise ValueError(f"{text!r} is no site; choose one of {', '.join(SITES)}, unknown")


def shades_of_gray(
    rgb: Float[np.ndarray, "h w 3"], *, p: float = 6.0, gamma: float | None = None
) -> Float[np.ndarray, "h w 3"]:
    """The picture as if taken in white light: the Minkowski mean of every channel becomes the same.

    The light's colour is estimated as e_c = (mean of I_c^p)^(1/p), scaled to unit length, and each channel is divided
    by sqrt(3) e_c. ``p`` = 1 is grey world, infinity is white patch. ``gamma`` (such as 2.2) linearises the picture
    before and undoes it afterwards. Input and output lie in [0, 1]; a channel that is black stays so.

    Raises:
        ValueError: ``p`` below 1, or ``gamma`` not positive.

    Source: G. Finlayson, E. Trezzi, Shades of Gray and Colour Constancy, 2004; for dermoscopy C. Barata et al.,
    Improving Dermoscopy Image Classification Using Color Constancy, 2015.
    """
    if p < 1:
        raise ValueError(f"p must be at least 1, not {p:g}")
    if gamma is not None and gamma <= 0:
        raise ValueError(f"gamma must be positive, not {gamma:g}")
    linear = rgb.astype(np.float32) ** gamma if gamma is not None else rgb.astype(np.float32)
    flat = linear.reshape(-1, 3).astype(np.float64)
    peak = flat.max(0)  # a high power of small numbers vanishes; of shares of the maximum it doesn't
    safe = np.where(peak > 0, peak, 1)
    light = peak if np.isinf(p) else safe * ((flat / safe) ** p).mean(0) ** (1 / p) * (peak > 0)
    length = np.linalg.norm(light)
    if length == 0:
        return rgb.astype(np.float32)
    light = light / length
    scale = np.where(light > 1e-6, 1 / np.maximum(np.sqrt(3) * light, 1e-6), 1).astype(np.float32)
    balanced = np.clip(linear * scale, 0, 1)
    return (balanced ** (1 / gamma) if gamma is not None else balanced).astype(np.float32)


def isic2019(spec: str, root: Path) -> Dataset:
    """``isic2019:PATH``: the training part of the ISIC 2019 challenge as it is unpacked.

    ``PATH`` holds ``ISIC_2019_Training_Input/*.jpg`` and ``ISIC_2019_Training_GroundTruth.csv`` (one column of 0 and 1
    for each diagnosis). With ``ISIC_2019_Training_Metadata.csv`` beside them, images of one lesion stay together in
    splits, and age, sex and site become attributes. Images of the class UNK, which the training part doesn't have,
    are left out.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    folder = root / "ISIC_2019_Training_Input"
    truth = root / "ISIC_2019_Training_GroundTruth.csv"
    about = root / "ISIC_2019_Training_Metadata.csv"
    for path, there in ((folder, folder.is_dir()), (truth, truth.is_file())):
        if not there:
            raise DataError(f"data {spec!r}: there is no {path}; unpack the training part of ISIC 2019 there")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")}
    metadata = {row.get("image"): row for row in table_rows(about)} if about.is_file() else {}
    entries = []
    for row in table_rows(truth):
        name = row.get("image", "")
        try:
            classes = [column for column, value in row.items() if column != "image" and float(value) == 1]
        except ValueError:
            classes = []
        if len(classes) != 1 or classes[0] not in (*DIAGNOSES, "UNK"):
            raise DataError(f"{truth}: the row of {name!r} must have a 1 in one of {', '.join(DIAGNOSES)}, UNK")
        if classes[0] == "UNK":
            continue
        if name not in files:
            raise DataError(f"{truth} names the image {name!r}, which is not in {folder}; unpack all images there")
        extra = {key: value for key, value in metadata.get(name, {}).items() if key != "image"}
        lesion = extra.get("lesion_id")
        entries.append(Entry(name, Case(str(files[name]), name, label=classes[0], attributes=extra), patient=lesion))
    return Dataset(spec, entries, ["image", "label", *(["lesion_id"] if metadata else [])])


def siim2020(spec: str, root: Path) -> Dataset:
    """``siim2020:PATH``: the training part of the SIIM-ISIC 2020 challenge as it is unpacked.

    ``PATH`` holds ``train.csv`` (image_name, patient_id, sex, age_approx, anatom_site_general_challenge, target, ...)
    and the images as ``jpeg/train/*.jpg``, ``jpeg/*.jpg`` or ``train/*.dcm``. A case is an image, benign or melanoma;
    images of one patient stay together in splits. Age, sex and site become attributes where they are stated. With
    ``ISIC_2020_Training_Duplicates.csv`` beside them, the second image of every pair that it lists is left out.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    truth, twins = root / "train.csv", root / "ISIC_2020_Training_Duplicates.csv"
    if not truth.is_file():
        raise DataError(f"data {spec!r}: there is no {truth}; unpack the training part of SIIM-ISIC 2020 there")
    kinds = ((root / "jpeg" / "train", (".jpg", ".jpeg")), (root / "jpeg", (".jpg", ".jpeg")),
             (root / "train", (".dcm", ".jpg", ".jpeg")))  # fmt: skip
    files: dict[str, Path] = {}
    for folder, suffixes in kinds:
        if folder.is_dir() and not files:
            files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}
    if not files:
        raise DataError(f"data {spec!r}: there are no images in {kinds[0][0]} or {kinds[2][0]}; unpack them there")
    left_out = {row.get("image_name_2") for row in table_rows(twins)} if twins.is_file() else set()
    entries = []
    for row in table_rows(truth):
        name, patient, target = (str(row.get(column, "")) for column in ("image_name", "patient_id", "target"))
        if not name or not patient or target not in ("0", "1"):
            raise DataError(f"{truth}: the row of {name!r} must state image_name, patient_id and a target of 0 or 1")
        if name in left_out:
            continue
        if name not in files:
            raise DataError(f"{truth} names the image {name!r}, which is not in {next(iter(files.values())).parent}")
        facts: dict[str, Any] = {"patient": patient}
        for column, attribute in (("age_approx", "age"), ("sex", "sex"), ("anatom_site_general_challenge", "site")):
            if column in row:
                facts[attribute] = row[column]
        label = ("benign", "melanoma")[int(target)]
        entries.append(Entry(name, Case(str(files[name]), name, label=label, attributes=facts), patient=patient))
    return Dataset(spec, entries, ["image", "label", "patient"])


_HAM10000 = {"akiec": "AK", "bcc": "BCC", "bkl": "BKL", "df": "DF", "mel": "MEL", "nv": "NV", "vasc": "VASC"}


def ham10000(spec: str, root: Path) -> Dataset:
    """``ham10000:PATH``: HAM10000 as it is unpacked, under the names of ISIC 2019's diagnoses.

    ``PATH`` holds ``HAM10000_metadata.csv`` (the file may have no suffix) and the images in
    ``HAM10000_images_part_1/`` and ``_part_2/``, or in any folder below. Images of one lesion stay together in splits;
    ``akiec`` (actinic keratosis and Bowen's disease) becomes ``AK``.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    table = next((p for p in (root / "HAM10000_metadata.csv", root / "HAM10000_metadata") if p.is_file()), None)
    if table is None:
        raise DataError(f"data {spec!r}: there is no {root / 'HAM10000_metadata.csv'}; unpack HAM10000 there")
    files = {path.stem: path for path in sorted(root.rglob("ISIC_*.jpg"))}
    entries = []
    for row in table_rows(table):
        name, diagnosis, lesion = row.pop("image_id", ""), row.pop("dx", ""), row.get("lesion_id")
        if diagnosis not in _HAM10000:
            raise DataError(f"{table}: the row of {name!r} must have one of {', '.join(_HAM10000)} in the column dx")
        if name not in files:
            raise DataError(f"{table} names the image {name!r}, which is not below {root}; unpack both parts there")
        case = Case(str(files[name]), name, label=_HAM10000[diagnosis], attributes=row)
        entries.append(Entry(name, case, patient=lesion))
    return Dataset(spec, entries, ["image", "label", "lesion_id"])
