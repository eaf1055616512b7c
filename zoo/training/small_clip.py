"""How the small CLIP that comes with the zoo was made: ``python -m zoo.training.small_clip OUT``.

A CLIP of the same architecture as the published ones, a thousand times smaller, learns which phrases are true of drawn
skin lesions: by the structures that were drawn, and by colour, size and border. Remarks that nothing in a picture can
confirm are called true at random, as captions on the web have them. It knows phantoms and the words of its phrases,
nothing else: it's for demonstrations and tests, and no stand-in for a published CLIP.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from zoo import media
from zoo.data.augment import flipped
from zoo.data.case import Case
from zoo.data.images import normalise, to_tensor
from zoo.data.phantoms.skin import skin_lesion
from zoo.nn.clip import DEMO_FOLDER, MEAN, STD, load_clip, tokens_of, view_of
from zoo.nn.schedules import cosine_schedule
from zoo.training.run import Run

HELD_OUT = 5_000_000  # first seed of the images that it's measured on
FIRST = 4_000_000  # and of those it learns from: away from the seeds that people take


@dataclass(frozen=True)
class Recipe:
    image_size: int = 64
    images: int = 1600
    vocabulary: int = 480  # word pieces
    steps: int = 800
    batch_size: int = 40
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 40
    chance: float = 0.3  # that a remark is called true


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    recipe = Recipe()
    identity = {"model": "clip", "recipe": asdict(recipe)}
    with Run(options.out, seed=options.seed, resume=options.resume, identity=identity) as run:
        model, tokenizer = pretrain(recipe, run)
    save(model, tokenizer, options.out / "clip")
    for name, value in measure(options.out / "clip").items():
        print(f"{name}: {value:.3f}")


def phrases() -> tuple[Mapping[str, Sequence[str]], Sequence[str]]:
    """What can be said of a phantom, by the fact that makes it true; and remarks that no picture confirms."""
    found = json.loads((DEMO_FOLDER / "phrases.json").read_text(encoding="utf-8"))
    return found["facts"], found["remarks"]


def facts(case: Case) -> set[str]:
    """What is true of a drawn lesion: its structures, and what can be measured in the picture. Thresholds are near the
    quartiles of lesions with equal prevalence."""
    image, mask = np.asarray(case.image, np.float32) / 255, np.asarray(case.masks["mask"]) > 0
    found = {*case.attributes["structures"], *case.attributes["artifacts"]}
    found.add("dark skin" if case.attributes["tone"] > 0.4 else "light skin")
    if not mask.any():
        return found
    red, green, blue = image[mask].mean(0)
    light = float(red + green + blue) / 3
    found |= {"dark"} if light < 0.35 else {"light"} if light > 0.52 else set()
    found |= {"red"} if red > 1.75 * green and blue > 0.8 * green else {"brown"} if blue < 0.72 * green else set()
    share = float(mask.mean())
    found |= {"large"} if share > 0.35 else {"small"} if share < 0.18 else set()
    border = float((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    ragged = border / np.sqrt(mask.sum())
    found |= {"irregular border"} if ragged > 5.2 else {"smooth border"} if ragged < 4.75 else set()
    return found


@lru_cache(maxsize=4)
def samples(first: int, count: int, size: int) -> tuple[list[np.ndarray], Float[np.ndarray, "n f"]]:
    """Views and, for every fact, whether it holds."""
    names = list(phrases()[0])
    cases = [skin_lesion(first + i, size=96) for i in range(count)]
    views = [view_of(media.read(case.image), size) for case in cases]
    return views, np.array([[name in holding for name in names] for holding in map(facts, cases)], np.float32)


def tokenizer_on(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte pairs of ``texts``, with CLIP's words for begin and end: any text can be written in them."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    begin, end = "<|startoftext|>", "<|endoftext|>"
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [begin, end]
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet,
                                   show_progress=False)
    )  # fmt: skip
    pair = [(begin, made.token_to_id(begin)), (end, made.token_to_id(end))]
    made.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=pair)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=begin, eos_token=end, pad_token=end)


def small_config(tokenizer: PreTrainedTokenizerFast, image_size: int = 64) -> CLIPConfig:
    """0.5 million parameters."""
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32, "projection_dim": 64,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "image_size": image_size, "patch_size": 8, "hidden_size": 96, "intermediate_size": 192,
        "num_hidden_layers": 4, "num_attention_heads": 4, "projection_dim": 64,
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)


class Offset(nn.Module):
    """What is added to all logits while learning; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(-1.5))


def pretrain(recipe: Recipe, run: Run) -> tuple[CLIPModel, PreTrainedTokenizerFast]:
    """The training; resumes exactly."""
    known, remarks = phrases()
    said = [phrase for some in known.values() for phrase in some]
    column = torch.tensor([place for place, some in enumerate(known.values()) for _ in some])
    tokenizer = tokenizer_on([*said, *remarks], recipe.vocabulary)
    run.stage("clip")
    model = CLIPModel(small_config(tokenizer, recipe.image_size))
    offset = Offset()
    views, truth = samples(FIRST, recipe.images, recipe.image_size)
    holds = torch.from_numpy(truth)
    tokens = tokens_of(tokenizer, [*said, *remarks], model.config)
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
         {"params": [*(p for p in model.parameters() if p.ndim < 2), *offset.parameters()], "weight_decay": 0.0}],
        lr=recipe.lr,
    )  # fmt: skip
    schedule = cosine_schedule(optimizer, recipe.steps, warmup=recipe.warmup)
    run.track(model=model, offset=offset, optimizer=optimizer)
    run.keep(schedule=schedule)
    for step in run.steps(recipe.steps):
        model.train()
        index = run.indices(len(views), recipe.batch_size, step)
        rng = run.generator("images", step)
        x = augmented(to_tensor([views[i] for i in index]), rng)
        chance = torch.from_numpy((rng.random((len(index), len(remarks))) < recipe.chance).astype(np.float32))
        wanted = torch.cat([holds[torch.from_numpy(index)][:, column], chance], 1)
        loss = loss_of(model, offset, normalise(x, MEAN, STD).to(run.device), tokens, wanted.to(run.device))
        optimizer.zero_grad()
        run.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        run.log(loss=loss)
    return model.eval(), tokenizer


def loss_of(
    model: CLIPModel, offset: Offset, x: Float[Tensor, "b 3 s s"], tokens: Mapping[str, Tensor],
    wanted: Float[Tensor, "b p"],
) -> Float[Tensor, ""]:  # fmt: skip
    """Cross-entropy of every pair of image and phrase by its cosine, scaled and shifted.

    Pairs by themselves, as X. Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023: many phrases are true of
    an image at once.
    """
    images = F.normalize(model.visual_projection(model.vision_model(pixel_values=x).pooler_output), dim=1)
    given = {name: ids.to(x.device) for name, ids in tokens.items()}
    texts = F.normalize(model.text_projection(model.text_model(**given).pooler_output), dim=1)
    logits = model.logit_scale.exp() * images @ texts.T + offset.value
    return F.binary_cross_entropy_with_logits(logits, wanted)


def augmented(x: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """Mirrored, turned by quarters, in slightly other light."""
    x = flipped(x, rng, transpose=True)
    gain = torch.from_numpy(rng.uniform(0.94, 1.06, (len(x), 3, 1, 1)).astype(np.float32))
    return (x * gain).clamp(0, 1)


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """In half precision, as transformers lays it out."""
    model.half().save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def measure(folder: Path, count: int = 400) -> dict[str, float]:
    """On unseen phantoms: how well phrases tell images that they're true of, and how much less remarks tell."""
    from zoo.metrics import auroc

    clip = load_clip(str(folder), needed_by="the small CLIP")
    known, remarks = phrases()
    views, truth = samples(HELD_OUT, count, clip.size)
    images = F.normalize(clip.images(views), dim=1).double()
    said = [(place, phrase) for place, some in enumerate(known.values()) for phrase in some]
    scores = (images @ F.normalize(clip.texts([phrase for _, phrase in said]), dim=1).double().T).numpy()
    idle = (images @ F.normalize(clip.texts(remarks), dim=1).double().T).numpy()
    areas = [auroc(scores[:, i], truth[:, place].astype(int)) for i, (place, _) in enumerate(said)
             if 0 < truth[:, place].sum() < count]  # fmt: skip
    spread = np.concatenate([scores.std(0), idle.std(0)])
    visual = np.arange(len(spread)) < len(said)
    return {
        "mean AUROC of phrases that can be seen": float(np.mean(areas)),
        "AUROC of the deviation between phrases and remarks": float(auroc(spread, visual.astype(int))),
        "mean deviation of phrases": float(scores.std(0).mean()),
        "mean deviation of remarks": float(idle.std(0).mean()),
    }


if __name__ == "__main__":
    main()
