"""How the small CLIP learns: that a run can be repeated and resumed, and that its loss is that of pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from zoo.nn.clip import load_clip
from zoo.training.run import Run
from zoo.training.small_clip import Offset, Recipe, loss_of, phrases, pretrain, save, small_config, tokenizer_on

TINY = Recipe(images=8, steps=4, batch_size=4, warmup=1)


def trained(out: Path | None, steps: int = 4, resume: bool = False) -> dict[str, torch.Tensor]:
    with Run(out, resume=resume, progress=False, device="cpu", checkpoint_every=1) as run:
        model, _ = pretrain(TINY, run)
    return model.state_dict()


def test_the_same_seed_gives_the_same_bits():
    first, second = trained(None), trained(None)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_the_cross_entropy_of_scaled_cosines():
    from transformers import CLIPModel

    torch.manual_seed(0)
    tokenizer = tokenizer_on(["a red spot", "rare"], 300)
    model, offset = CLIPModel(small_config(tokenizer)).eval(), Offset()
    tokens = dict(tokenizer(["a red spot", "rare"], padding=True, return_tensors="pt"))
    tokens.pop("token_type_ids", None)
    x, wanted = torch.rand(3, 3, 64, 64), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    with torch.no_grad():
        given = model(pixel_values=x, **tokens)
        logits = model.logit_scale.exp() * given.image_embeds @ given.text_embeds.T + offset.value
        expected = F.binary_cross_entropy_with_logits(logits, wanted)
        assert float(loss_of(model, offset, x, tokens, wanted)) == pytest.approx(float(expected), abs=1e-5)


def test_what_is_saved_is_loaded_with_its_words(tmp_path: Path):
    with Run(None, progress=False, device="cpu") as run:
        model, tokenizer = pretrain(TINY, run)
    save(model, tokenizer, tmp_path / "clip")
    clip = load_clip(str(tmp_path / "clip"), needed_by="a test")
    for some in phrases()[0].values():
        assert clip.tokenizer is not None
        assert clip.tokenizer(list(some))["input_ids"] == tokenizer(list(some))["input_ids"]
    assert clip.texts(["a red spot"]).shape == (1, 64)
