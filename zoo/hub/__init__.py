"""Weights from the Hugging Face Hub: :func:`pull`, :func:`fetch`, and public backbones. ``zoo.publish`` pushes them.

``huggingface_hub`` does all the talking, so ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what
they mean everywhere. This room adds what a model zoo must not leave to chance: only named files are fetched, every
byte is compared with the hash that the Hub states before it is used, and every refusal is one sentence.
"""

from __future__ import annotations

from zoo.hub.backbones import fetch_backbone, timm_backbone, transformers_backbone
from zoo.hub.client import Address, address, size_text
from zoo.hub.configs import foreign_config
from zoo.hub.snapshots import Fetched, fetch, pull

__all__ = [
    "Address",
    "Fetched",
    "address",
    "fetch",
    "fetch_backbone",
    "foreign_config",
    "pull",
    "size_text",
    "timm_backbone",
    "transformers_backbone",
]
