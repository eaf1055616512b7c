"""What labels stand for, and their codes. Cards read it, so it imports nothing of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Category = Literal["anatomy", "abnormal", "tissue", "object"]

ISIC_2019 = {
    "MEL": "melanoma",
    "NV": "naevus",
    "BCC": "basal cell carcinoma",
    "AK": "actinic keratosis",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "SCC": "squamous cell carcinoma",
}
"""ISIC 2019's classes, in its order."""


@dataclass(frozen=True)
class Code:
    """A concept of a terminology, as DICOM objects name it: SNOMED CT unless another scheme is said."""

    value: str
    meaning: str
    scheme: str = "SCT"
    category: Category = "abnormal"


CODES = {
    "melanoma": Code("1162635006", "Malignant melanoma"),
    "naevus": Code("400096001", "Melanocytic naevus"),
    "basal cell carcinoma": Code("254701007", "Basal cell carcinoma of skin"),
    "actinic keratosis": Code("201101007", "Actinic keratosis"),
    "squamous cell carcinoma": Code("254651007", "Squamous cell carcinoma of skin"),
    "benign": Code("30807003", "Benign"),
    "normal": Code("17621005", "Normal", category="anatomy"),
    "bacterial pneumonia": Code("53084003", "Bacterial pneumonia"),
    "viral pneumonia": Code("75570004", "Viral pneumonia"),
    "lesion": Code("52988006", "Lesion"),
    "tumour": Code("108369006", "Tumor"),
    "vessel": Code("59820001", "Blood vessel", category="anatomy"),
    "nerve": Code("91728009", "Nerve", category="anatomy"),
    "nucleus": Code("84640000", "Nucleus", category="anatomy"),
    "tissue": Code("85756007", "Tissue", category="tissue"),
    "left lung": Code("44029006", "Left lung", category="anatomy"),
    "lung": Code("39607008", "Lung", category="anatomy"),
    "prostate": Code("41216001", "Prostate", category="anatomy"),
    "spleen": Code("78961009", "Spleen", category="anatomy"),
    "liver": Code("10200004", "Liver", category="anatomy"),
    "pancreas": Code("15776009", "Pancreas", category="anatomy"),
    "gallbladder": Code("28231008", "Gallbladder", category="anatomy"),
    "stomach": Code("69695003", "Stomach", category="anatomy"),
    "aorta": Code("15825003", "Aorta", category="anatomy"),
    "oesophagus": Code("32849002", "Esophagus", category="anatomy"),
    "duodenum": Code("38848004", "Duodenum", category="anatomy"),
    "left kidney": Code("18639004", "Left kidney", category="anatomy"),
    "right kidney": Code("9846003", "Right kidney", category="anatomy"),
    "bladder": Code("89837001", "Bladder", category="anatomy"),
}
"""What labels mean in SNOMED CT, by the label or what it stands for; a card's ``label_codes`` says more of its own."""

OWN_SCHEME = "99MEDZOO"
"""Of labels that no terminology names exactly, such as benign keratosis or an unnamed object."""


def code_of(label: str, name: str | None = None, codes: Mapping[str, Code] | None = None) -> Code:
    """The code of a label that stands for ``name``: the card's, the zoo's, else one of our own for the bare word."""
    known = (codes or {}).get(label) or CODES.get((name or label).lower()) or CODES.get(label.lower())
    return known or Code(label[:16], (name or label)[:64], OWN_SCHEME)
