"""What the tests of the plugins on a frozen SAM have in common, beside what all plugins have (``base.py``).

A plugin that trains SAM's encoder subclasses :class:`PromptableTests`, any other :class:`FrozenEncoderTests`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamPatchEmbeddings

from tests.models.base import Killed, MortalRun, PluginTests, Trained
from zoo import registry
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError
from zoo.nn.promptable import load_sam
from zoo.training import Training


def instead(parts: TrainData, **changes: Any) -> TrainData:
    """Data to train on whose only case is the first one with these changes."""
    case = replace(parts.train[0], **changes)
    return TrainData(Dataset("phantom", [Entry(case.id, case)]), parts.validation, parts.test)


class PromptableTests(PluginTests):
    """The recipe ``tiny`` stands on a SAM in ``tiny.sam``; the claim's quick run takes seconds."""

    owns: ClassVar[set[str]]  # first names of all parameters that are trained
    aside: ClassVar[set[str]] = set()  # of what is stored too, but not trained
    any_sam: ClassVar[bool] = False  # whether the weights go with a SAM of any sizes

    def sam_of(self, model: Any) -> SamModel:
        return model.base.sam

    def test_its_own_parts_are_trained_and_stored_and_sam_stays_as_it_was(self, tiny: Any, trained: Trained) -> None:
        model = trained.model
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == self.owns
        assert {name.split(".")[0] for name in model.state_dict()} == self.owns | self.aside
        before = load_sam(tiny.sam, needed_by="a test", image_size=tiny.image_size).state_dict()
        after = {name.replace(".frozen.", "."): value for name, value in self.sam_of(model).state_dict().items()}
        assert before.keys() <= after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_weights_for_a_sam_of_other_sizes_are_refused(self, trained: Trained) -> None:
        other: Any = type(trained.model)(replace(trained.model.config, sam="demo", image_size=None))
        if self.any_sam:
            assert self.sam_of(other) is not None
            return
        with pytest.raises(OptionError, match="other sizes"):
            _ = other.base

    def test_an_image_and_a_mask_that_differ_in_size_are_refused(
        self, training: Training, tiny: Any, parts: TrainData
    ) -> None:
        wrong = instead(parts, image=parts.train[0].image[:30])  # type: ignore[index]
        with pytest.raises(DataError, match=r"differ in size: \(30, "), MortalRun(None) as run:
            training.run(tiny, wrong, run)

    def test_the_claims_quick_run_goes_through_all_arms_and_is_repeatable(self) -> None:
        claim = registry.resolve(registry.find(self.name), "claim")
        module, _, name = claim.run.partition(":")
        run = getattr(import_module(module), name)
        first = run(3, quick=True)
        assert set(first) == set(claim.arms)
        assert run(3, quick=True) == first


class FrozenEncoderTests(PromptableTests):
    """SAM's encoder stays as it is, so it need see an image no more than once."""

    encoded: ClassVar[int]  # images that the tiny training brings to the encoder, or at most, with ``views``
    views: ClassVar[int] = 1  # of each image, where it is also shown turned

    def test_sam_runs_once_on_an_image_even_if_the_training_is_killed(
        self, training: Training, tiny: Any, parts: TrainData, trained: Trained, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        seen = []
        forward = SamPatchEmbeddings.forward
        monkeypatch.setattr(
            SamPatchEmbeddings, "forward", lambda self, x, *more: [seen.append(len(x)), forward(self, x, *more)][1]
        )
        with pytest.raises(Killed), MortalRun(tmp_path, die_after=trained.steps // 2) as run:
            training.run(tiny, parts, run)
        with MortalRun(tmp_path, resume=True) as run:
            training.run(tiny, parts, run)
        assert run.made < trained.steps
        if self.views == 1:
            assert sum(seen) == self.encoded
        else:
            assert self.encoded <= sum(seen) <= self.encoded * self.views
