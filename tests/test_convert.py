"""``zoo convert``: released weights by the names of their tensors."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.models.universeg_prostate.test_model import SUPPORT, announced, released
from zoo.convert import convert, unpickle
from zoo.errors import OptionError, WeightsError


@announced
def test_made_up_weights_of_the_released_layout_become_a_model_that_predicts(zoo_cli: Any, tmp_path: Path) -> None:
    save_file(released((8, 8, 8)), tmp_path / "universeg.safetensors")
    asked = ("convert", "universeg-prostate", tmp_path / "universeg.safetensors", "--out", tmp_path / "weights")
    refused = zoo_cli(*asked)
    assert refused.code == 2
    assert "for research only" in refused.err
    assert "add --accept-licence" in refused.err
    assert not (tmp_path / "weights").exists()
    ran = zoo_cli(*asked, "--accept-licence")
    assert ran.code == 0, ran.err
    model = zoo.load("universeg-prostate", weights=str(tmp_path / "weights"), device="cpu")
    assert model.config.channels == (8, 8, 8)
    assert "from universeg.safetensors" in model.provenance.trained_on
    theirs = released((8, 8, 8))
    np.testing.assert_array_equal(
        model.net.state_dict()["encoder.1.support.weight"], theirs["enc_blocks.1.support.vmapped.conv.weight"]
    )
    result = model.predict("phantom:prostate-mr?seed=3&size=32&slices=8", support=SUPPORT)
    assert result.mask.shape == (8, 32, 32)


@announced
def test_a_pickle_is_refused_with_the_command_that_makes_safetensors_of_it(tmp_path: Path) -> None:
    path = tmp_path / "universeg.pt"
    torch.save(released((4, 4)), path)
    with pytest.raises(
        WeightsError, match="pickle, which can run code, isn't loaded here; if you trust it, run: python"
    ):
        convert("universeg-prostate", path, tmp_path / "out", accept_licence=True)
    command = shlex.split(unpickle(path))
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=120)
    folder = convert("universeg-prostate", path.with_suffix(".safetensors"), tmp_path / "out", accept_licence=True)
    assert {file.name for file in folder.iterdir()} >= {"config.json", "model.safetensors"}


@announced
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors at all, but text")
    for name, sentence in (
        ("absent.safetensors", "there is no file"),
        ("other.safetensors", "'a' is none of UniverSeg's"),
        ("text.safetensors", "can't be read"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            convert("universeg-prostate", tmp_path / name, tmp_path / "out", accept_licence=True)
    with pytest.raises(OptionError, match="map-vessel knows no released weights"):
        convert("map-vessel", tmp_path / "other.safetensors", tmp_path / "out", accept_licence=True)
    assert not (tmp_path / "out").exists()
