"""The small SAM that comes with the zoo: it follows prompts on phantoms it never saw, and boxes on real images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo.data.phantoms import PHANTOMS
from zoo.metrics import dice
from zoo.nn.promptable import Box, Grid, Prompt, Promptable, box_around, find_everything, load_sam
from zoo.nn.promptable.sam import DEMO_FOLDER
from zoo.training.small_sam import HELD_OUT, MIXTURE, measure


@pytest.fixture(scope="module")
def promptable() -> Promptable:
    return Promptable(load_sam(needed_by="test"))


def test_it_is_small_and_of_half_precision(promptable: Promptable) -> None:
    assert (DEMO_FOLDER / "model.safetensors").stat().st_size < 4 << 20
    assert json.loads((DEMO_FOLDER / "config.json").read_text())["dtype"] == "float16"
    assert promptable.size == 256
    assert not any(p.requires_grad for p in promptable.sam.parameters())


def test_boxes_and_clicks_find_objects_of_every_phantom_it_never_saw(promptable: Promptable) -> None:
    found = measure(promptable.sam, per_phantom=2, objects=2)  # IoU
    assert set(found) == set(MIXTURE)
    box, click, corrected = (
        np.mean([scores[kind] for scores in found.values()]) for kind in ("box", "click", "3 more")
    )
    assert all(scores["box"] > 0.5 for scores in found.values()), found
    assert box > 0.7
    assert click > 0.55
    assert corrected > click  # clicks where the answer was wrong, and the answer as mask prompt


def test_an_image_twice_as_large_gives_the_same_object(promptable: Promptable) -> None:
    case = PHANTOMS["ultrasound"].load()(HELD_OUT, size=512)
    image, truth = np.repeat(case.image[..., None], 3, axis=2), case.masks["mask"] > 0
    embedded = promptable.embed(image)
    answer = promptable.ask(embedded, [Prompt(box_around(truth))])
    assert dice((embedded.frame.logits(answer.logits)[0, 0] > 0).numpy(), truth) > 0.7


def test_the_prompt_decides_which_object_is_meant(promptable: Promptable) -> None:
    case = PHANTOMS["chest-xray"].load()(HELD_OUT, size=256)
    image = np.repeat(case.image[..., None], 3, axis=2)
    embedded = promptable.embed(image)
    heart, lungs = (case.masks[name] > 0 for name in ("heart", "lungs"))
    left = lungs & (np.arange(256) < 128)
    answer = promptable.ask(embedded, [Prompt(box_around(part)) for part in (heart, left)])
    found = (embedded.frame.logits(answer.logits)[:, 0] > 0).numpy()
    assert dice(found[0], heart) > dice(found[0], left)
    assert dice(found[1], left) > dice(found[1], heart)


def test_it_follows_a_box_on_a_real_fundus_photograph(promptable: Promptable) -> None:
    data = pytest.importorskip("skimage.data")
    image = data.retina()
    box = Box(195, 535, 330, 760)
    embedded = promptable.embed(image)
    found = (embedded.frame.logits(promptable.ask(embedded, [Prompt(box)]).logits)[0, 0] > 0).numpy()
    within = np.zeros_like(found)
    within[535:760, 195:330] = True
    assert (found & within).sum() > 0.7 * found.sum()
    assert (found & within).sum() > 0.4 * within.sum()
    green = image[..., 1].astype(float)  # the disc is the brightest there
    assert green[within & found].mean() > green[within & ~found].mean() + 10


def test_without_prompts_the_lesion_is_among_what_is_found(promptable: Promptable) -> None:
    case = PHANTOMS["skin-lesion"].load()(HELD_OUT, size=256)
    truth = case.masks["mask"] > 0
    masks = find_everything(promptable, case.image, Grid(points=8, quality=0.5, stability=0.7))
    assert max(dice(found.full(), truth) for found in masks) > 0.8
