"""Getting a CLIP, and what it makes of images and phrases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo import media
from zoo.errors import WeightsError
from zoo.nn.clip import DEMO_FOLDER, Clip, load_clip, view_of
from zoo.training import small_clip


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(needed_by="a test")


def test_features_of_images_and_phrases_are_those_of_transformers(clip: Clip):
    views = [np.full((64, 64, 3), 90, np.uint8), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)]
    pixels = torch.stack([torch.from_numpy(view).permute(2, 0, 1) / 255 for view in views])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (small_clip.MEAN, small_clip.STD))
    given = {
        "pixel_values": (pixels - mean) / std,
        "input_ids": torch.tensor([clip.tokenizer("a red lesion")["input_ids"]]),
    }
    with torch.no_grad():
        whole = clip.model(**given)
    assert torch.allclose(F.normalize(clip.images(views), dim=1), whole.image_embeds, atol=1e-5)
    assert torch.allclose(F.normalize(clip.texts(["a red lesion"]), dim=1), whole.text_embeds, atol=1e-5)
    projected, hidden = clip.features(views)
    assert projected.shape == (2, clip.width)
    assert torch.allclose(clip.model.visual_projection(hidden), projected)


def test_phrases_don_t_depend_on_their_company_and_long_ones_are_cut(clip: Clip):
    some = ["a red lesion", "word " * 500, "dark"]
    together = clip.texts(some)
    assert torch.allclose(torch.cat([clip.texts([one]) for one in some]), together, atol=1e-5)


def test_nothing_gives_nothing(clip: Clip):
    assert clip.images([]).shape == clip.texts([]).shape == (0, clip.width)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (40, 64), (64, 64), (2000, 10)])
def test_a_view_is_the_central_square(height: int, width: int):
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 3, width // 3
    pixels[top : height - top, left : width - left] = 200
    view = view_of(media.read(pixels), 32)
    assert view.shape == (32, 32, 3)
    assert view[16, 16, 0] == 200


def test_folders_that_hold_no_clip_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="holds no CLIP"):
        load_clip(str(tmp_path), needed_by="a test")
    shutil.copytree(DEMO_FOLDER, tmp_path / "other")
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "projection_dim": 8}))
    with pytest.raises(WeightsError, match=r"can't be loaded as a CLIP|lacks parts of a CLIP"):
        load_clip(str(tmp_path / "other"), needed_by="a test")
    (tmp_path / "other" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json can't be read as JSON"):
        load_clip(str(tmp_path / "other"), needed_by="a test")


def test_without_a_tokenizer_images_work_and_phrases_are_refused(tmp_path: Path):
    shutil.copytree(DEMO_FOLDER, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    mute = load_clip(str(tmp_path / "mute"), needed_by="a test")
    assert mute.images([np.zeros((64, 64, 3), np.uint8)]).shape == (1, mute.width)
    with pytest.raises(WeightsError, match=r"has no tokenizer\.json"):
        mute.texts(["a"])


def test_offline_a_hub_id_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="org/no-such-clip"):
        load_clip("org/no-such-clip", needed_by="a test")


def test_the_small_clip_tells_phrases_that_can_be_seen_from_remarks():
    found = small_clip.measure(DEMO_FOLDER, count=60)
    assert found["mean AUROC of phrases that can be seen"] > 0.7
    assert found["AUROC of the deviation between phrases and remarks"] > 0.9


def test_what_is_true_of_a_drawn_lesion_is_said_in_its_phrases():
    from zoo.data.phantoms.skin import skin_lesion

    known, remarks = small_clip.phrases()
    case = skin_lesion(3, diagnosis="MEL")
    found = small_clip.facts(case)
    assert set(case.attributes["structures"]) <= found
    assert set(case.attributes["structures"]) <= set(known)
    assert len({phrase for some in known.values() for phrase in some} & set(remarks)) == 0
