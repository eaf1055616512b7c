"""What the short labels of public sets stand for. Cards read it, so it imports nothing."""

from __future__ import annotations

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
