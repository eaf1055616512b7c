"""Images and phrases in one space: CLIP on ``transformers``, by Hub id, from a folder, or the small one of the zoo.

``load_clip`` gets a ``Clip``: ``images`` and ``texts`` give their projected features, ``view`` is what an image looks
like when it enters. ``zoo.training.small_clip`` made the small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.utils import logging

from zoo import media
from zoo.data.images import normalise, rgb_bytes, to_tensor
from zoo.errors import WeightsError
from zoo.hub import address, fetch_backbone, foreign_config
from zoo.hub.backbones import BACKBONE_FILES
from zoo.storage import user_path

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo"
FILES = (*BACKBONE_FILES, "tokenizer.json")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of all published CLIPs
BATCH = 64  # images or phrases that go through a tower together


class Clip:
    """A frozen pair of encoders and what turns images and phrases into their input. Not a module: it's no weights."""

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerFast | None, source: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.source = source

    @property
    def width(self) -> int:
        """d, of the projected features."""
        return self.model.config.projection_dim

    @property
    def size(self) -> int:
        """Side of the square input, px."""
        return self.model.config.vision_config.image_size

    def to(self, device: torch.device | str) -> Clip:
        self.model.to(device)
        return self

    def view(self, image: media.Image) -> UInt8[np.ndarray, "s s 3"]:
        """The shorter side scaled to the input's, bicubic; then the central square, as CLIP's own preparation."""
        return view_of(image, self.size)

    def images(self, views: Iterable[UInt8[np.ndarray, "s s 3"]]) -> Float[Tensor, "n d"]:
        """Projected features, not normalised, on the model's device; ``BATCH`` views are in memory at a time."""
        return self.features(views)[0]

    @torch.no_grad()
    def features(
        self, views: Iterable[UInt8[np.ndarray, "s s 3"]]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n h"]]:
        """As ``images``; and what lies before the projection, the class token that linear probes on CLIP take."""
        model, device = self.model, self.model.device
        tokens = [torch.zeros(0, model.config.vision_config.hidden_size, device=device)]
        some: list[UInt8[np.ndarray, "s s 3"]] = []

        def seen() -> None:
            x = normalise(to_tensor(some, device), MEAN, STD)
            tokens.append(model.vision_model(pixel_values=x).pooler_output)
            some.clear()

        for view in views:
            some.append(view)
            if len(some) == BATCH:
                seen()
        if some:
            seen()
        hidden = torch.cat(tokens)
        return model.visual_projection(hidden), hidden

    @torch.no_grad()
    def texts(self, phrases: Sequence[str]) -> Float[Tensor, "m d"]:
        """Projected features of phrases as they stand, without a template; not normalised.

        Raises ``WeightsError`` where the checkpoint came without a tokenizer.
        """
        if self.tokenizer is None:
            raise WeightsError(
                f"{self.source} has no tokenizer.json, so its phrases can't be read; choose another CLIP"
            )
        found = [torch.zeros(0, self.width, device=self.model.device)]
        for start in range(0, len(phrases), BATCH):
            tokens = tokens_of(self.tokenizer, phrases[start : start + BATCH], self.model.config)
            tokens = {name: ids.to(self.model.device) for name, ids in tokens.items()}
            found.append(self.model.text_projection(self.model.text_model(**tokens).pooler_output))
        return torch.cat(found)


def view_of(image: media.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The central square of an image whose shorter side is scaled to ``size`` px, bicubic."""
    rgb = rgb_bytes(image)
    height, width = rgb.shape[:2]
    scale = size / min(height, width)
    # of a very long strip only what is around the middle is scaled
    margin = 2 * min(height, width)
    top, left = max(0, (height - margin) // 2), max(0, (width - margin) // 2)
    rgb = rgb[top : height - top, left : width - left]
    height, width = (max(size, round(side * scale)) for side in rgb.shape[:2])
    picture = PILImage.fromarray(rgb).resize((width, height), PILImage.Resampling.BICUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def tokens_of(tokenizer: PreTrainedTokenizerFast, phrases: Sequence[str], config: CLIPConfig) -> dict[str, Tensor]:
    """What the text tower takes; phrases longer than it knows are cut at their end."""
    longest = config.text_config.max_position_embeddings
    found = tokenizer(list(phrases), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}


def load_clip(source: str = DEMO, *, needed_by: str) -> Clip:
    """A frozen ``Clip`` in eval mode, on the CPU.

    ``source``: ``demo``, a Hub id such as ``openai/clip-vit-large-patch14`` (``@revision`` may follow), or a folder
    that holds ``config.json``, ``model.safetensors`` and ``tokenizer.json`` in transformers' layout.

    Raises ``WeightsError`` when there is nothing to load or it is no CLIP; offline it says what to fetch.
    """
    if source == DEMO:
        folder = DEMO_FOLDER
    elif (folder := user_path(source, WeightsError)).is_dir():
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise WeightsError(f"{folder} holds no CLIP: config.json, model.safetensors and tokenizer.json are needed")
    else:
        where = address(source)
        folder = fetch_backbone(where.repo, needed_by=needed_by, revision=where.revision, files=FILES)
    try:
        config = foreign_config(CLIPConfig, folder)
        if config.model_type != "clip":
            raise WeightsError(f"{source} is a {config.model_type}, not a CLIP; choose another checkpoint")
        model, report = _quietly(folder, config)
        tokenizer = tokenizer_of(folder, config)
    except WeightsError:
        raise
    except Exception as error:  # a stranger's file may fail anywhere in transformers
        raise WeightsError(f"{source} can't be loaded as a CLIP: {str(error).splitlines()[0]}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        name = sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])])[0]
        raise WeightsError(f"{source} lacks parts of a CLIP ({name}); choose another checkpoint")
    return Clip(model.float(), tokenizer, source)


def tokenizer_of(folder: Path, config: CLIPConfig) -> PreTrainedTokenizerFast | None:
    """From ``tokenizer.json`` alone: a table of word pieces, in which nothing can be executed."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    made = PreTrainedTokenizerFast(tokenizer_file=str(path))
    end = made.convert_ids_to_tokens(made("a")["input_ids"][-1])
    made.pad_token = made.eos_token = end  # CLIP pads with its end of text
    return made


def _quietly(folder: Path, config: CLIPConfig) -> tuple[CLIPModel, dict[str, Any]]:
    """Reading takes too short a time for transformers' progress bar, and what is wrong is said in one sentence."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        return CLIPModel.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


__all__ = ["DEMO", "Clip", "load_clip", "tokens_of", "view_of"]
