"""Natural mistakes on the command line: each answer names the mistake and the command that would have worked."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

MISTAKES = [
    # nothing to work on, or in the wrong order
    ("predict", "zoo predict map-vessel sample:retina"),
    ("predict map-vessel", "zoo predict map-vessel sample:retina"),
    ("predict eye.png", "eye.png is a file, and a model comes first: zoo predict MODEL eye.png"),
    ("train map-vessel", "zoo train map-vessel --data pairs:FOLDER"),
    ("evaluate map-vessel", "zoo evaluate map-vessel --data pairs:FOLDER"),
    ("push map-vessel", "zoo push map-vessel ORG/REPO"),
    ("reproduce", "name a model, or say --all"),
    # a name that is nearly right
    ("predcit map-vessel eye.png", "there is no command 'predcit'; did you mean zoo predict?"),
    ("data chekc set", "there is no command 'chekc'; did you mean zoo data check?"),
    ("predict map-vesel eye.png", "did you mean map-vessel?"),
    ("list --task segmentaton", "there is no task 'segmentaton'; did you mean 'segmentation'?"),
    ("predict map-vessel sample:retinaa", "did you mean sample:retina?"),
    ("predict map-vessel phantom:funds", "did you mean 'fundus'?"),
    ("predict map-vessel phantom:fundus?sed=3", "did you mean 'seed'?"),
    ("train map-vessel --data phantom:fundus?n=6 --preset dmeo", "did you mean 'demo'?"),
    ("train map-vessel --data phantom:fundus?n=6 --set epoch=4", "did you mean 'epochs'?"),
    ("evaluate map-vessel --data phantom:fundus?n=4 --split tset", "one of train, validation, test or all"),
    ("new MyModel", "such as my-model"),
    # options of the model
    ("predict map-vessel eye.png --with treshold=0.4", "did you mean threshold?"),
    ("predict map-vessel eye.png --with threshold = 0.4", "write --with threshold=VALUE, without spaces around ="),
    ("predict map-vessel eye.png --threshold 0.4", "an option of the model; write --with threshold=0.4"),
    ("predict map-vessel eye.png --with threshold=-0.4", "a number from 0 to 1, not -0.4"),
    ("predict map-vessel eye.png --with threshold=high", "a number from 0 to 1, not 'high'"),
    ("predict map-vessel eye.png --with modality=ct", "one of auto, fundus, octa, fa"),
    ("predict cemb-sam eye.png", "add --with box=x0,y0,x1,y1"),
    ("predict cemb-sam eye.png --with box=10 20 30 40", "4 numbers separated by commas, without spaces: x0,y0,x1,y1"),
    ("predict universeg-prostate eye.png", "add --with support='phantom:prostate-mr?"),
    # paths
    ("predict map-vessel eye.jpg", "there is no such file or folder; check the path"),
    ("predict map-vessel empty", "the folder empty: it holds no PNG"),
    ("predict map-vessel *.pgn", "the pattern matches no PNG"),
    ("predict map-vessel", "map-vessel needs an image to predict on"),
    ("predict map-vessel 'eye.png --out x'", "the quotes hold options too"),
    ("predict map-vessel eye.png --out eye.png", "eye.png is a file; choose another"),
    ("predict map-vessel mask.png", "mask.png"),  # a mask for an image: it has one grey level
    ("train map-vessel --data set", "write pairs:set"),
    ("train map-vessel --data table.csv", "write csv:table.csv"),
    ("train map-vessel --data images", "write folder:images"),
    ("train map-vessel --data pairs:images", "pairs need images/ and masks/"),
    ("train map-vessel --data pairs:nothere", "there is no file or folder nothere; check the path"),
    # devices, formats and weights
    ("predict map-vessel eye.png --device gpu", "choose auto, cpu or cuda[:n]"),
    ("predict map-vessel eye.png --format jpeg", "'png'"),
    ("predict map-vessel eye.png --weights meldd", "meldd is a model, not weights; write zoo predict meldd INPUT"),
    ("predict map-vessel eye.png --weights runs/x", "there are no weights at runs/x; pass demo, a folder"),
    ("predict map-vessel eye.png --frmat png", "--help lists the options"),
]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a photograph, an empty mask, a table, and sets of images."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "eye.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "table.csv").write_text("image,mask\neye.png,mask.png\n")
    for folder in ("empty", "set/images", "set/masks", "images"):
        (tmp_path / folder).mkdir(parents=True)
    Image.open(tmp_path / "eye.png").save(tmp_path / "images" / "0.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "remedy"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_answered_by_what_would_have_worked(desk, zoo_cli, command: str, remedy: str) -> None:
    import shlex

    before = sorted(desk.rglob("*"))
    refusal = zoo_cli(*shlex.split(command)).refused
    assert remedy in " ".join(refusal.split())
    assert refusal.count("\n") <= 1
    assert sorted(desk.rglob("*")) == before  # nothing was written
