"""The network, its two cuts, the link and the rules of aggregation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.federated.link import Link, kept_rows
from zoo.models.splitfed_embryo.network import PARTS, SplitFedConfig, SplitUNet, owners, part_of
from zoo.models.splitfed_embryo.sides import ClientSide, ServerSide, soft_dice, train_step

SMALL = SplitFedConfig(widths=(4, 6), bottleneck=8, image_size=16)


@pytest.mark.parametrize(
    ("split", "counts"), [("shallow", (928, 7_752_800, 9_445)), ("deep", (10_208, 7_716_800, 36_165))]
)
def test_parts_have_the_released_sizes(split: str, counts: tuple[int, ...]) -> None:
    config = SplitFedConfig(split=split)  # type: ignore[arg-type]
    network, owner = SplitUNet(config), owners(config)
    found = tuple(sum(p.numel() for p in network.part_parameters(part, owner)) for part in PARTS)
    assert found == counts
    assert sum(found) == sum(p.numel() for p in network.parameters()) == 7_763_173


def test_the_other_reading_of_the_up_sampling_has_the_size_that_was_counted_for_it() -> None:
    assert sum(p.numel() for p in SplitUNet(SplitFedConfig(up="upsampled", bias=True)).parameters()) == 8_636_517


@pytest.mark.parametrize(("split", "up", "down"), [("shallow", (32, 64), (32, 64)), ("deep", (32, 32), (64, 32))])
def test_what_crosses_the_link(split: str, up: tuple[int, int], down: tuple[int, int]) -> None:
    network = SplitUNet(SplitFedConfig(split=split, image_size=64)).eval()  # type: ignore[arg-type]
    features = network.front(torch.rand(1, 3, 64, 64))
    assert tuple(features.up.shape[1:3]) == up
    assert tuple(network.server(features.up).shape[1:3]) == down
    assert (features.skip is None) == (split == "shallow")


def test_both_cuts_give_the_same_bits_and_a_side_holds_its_parts_alone() -> None:
    torch.manual_seed(0)
    deep, shallow = (SplitUNet(SplitFedConfig((*"abcde",), s, (4, 6), 8, image_size=16)) for s in ("deep", "shallow"))
    shallow.load_state_dict(deep.state_dict())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(deep.eval()(x), shallow.eval()(x))
    client = SplitUNet(SMALL, ("front", "back"))
    assert client.state_dict().keys() == part_of(SplitUNet(SMALL).state_dict(), SMALL, ("front", "back")).keys()
    assert not any(name.startswith("enc1") for name in client.state_dict())


def test_rows_are_lost_by_channel_and_sample_and_nothing_makes_up_for_them() -> None:
    z = torch.rand(6, 8, 32, 5) + 0.1
    there = Link(0.7, 1, 0, 1).across(z, "features-up", 0)
    gone = (there == 0).all(3)
    assert torch.equal(gone, (there == 0).any(3))  # whole rows
    assert torch.equal(there[~gone], z[~gone])
    assert float(gone.float().mean()) == pytest.approx(0.7, abs=0.03)
    assert not torch.equal(gone[0], gone[1])
    assert not torch.equal(gone[:, 0], gone[:, 1])


def test_every_direction_step_round_and_client_loses_other_rows_and_a_seed_decides() -> None:
    z = torch.ones(2, 4, 32, 1)
    seen = [
        Link(0.5, 1, client, round_).across(z, way, step)  # type: ignore[arg-type]
        for client, round_, way, step in [
            (0, 1, "features-up", 0), (0, 1, "features-down", 0), (0, 1, "gradients-up", 0),
            (0, 1, "gradients-down", 0), (0, 1, "features-up", 1), (0, 2, "features-up", 0), (1, 1, "features-up", 0),
        ]
    ]  # fmt: skip
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert torch.equal(seen[0], Link(0.5, 1, 0, 1).across(z, "features-up", 0))


def test_loss_may_be_of_features_or_gradients_alone() -> None:
    z = torch.ones(1, 4, 32, 1)
    only = Link(0.5, 1, 0, 1, lost="features")
    assert only.across(z, "gradients-up", 0) is z
    assert not only.across(z, "features-up", 0).all()
    assert Link(0.5, 1, 0, 1, lost="gradients").across(z, "features-down", 0) is z


def test_fixed_masks_lose_exactly_so_many_rows_never_the_first_and_the_same_for_all_images() -> None:
    z = torch.ones(3, 5, 32, 2)
    there = Link(0.9, 1, 0, 1, "fixed").across(z, "features-up", 0)
    assert torch.equal((there[:, :, :, 0] == 0).sum(2), torch.full((3, 5), int(0.9 * 32)))
    assert there[:, :, 0].all()
    assert torch.equal(there[0], there[1])
    assert torch.equal(there, Link(0.9, 1, 0, 7, "fixed").across(z, "features-up", 5))  # rounds and steps alike
    assert kept_rows(z, 0.99, np.random.default_rng(0)).sum() == 5 * 1


def test_dropout_scales_what_stays_and_gradients_go_through_the_masks_of_their_features() -> None:
    z = torch.ones(2, 8, 64, 8)
    link = Link(0.5, 1, 0, 1, "dropout")
    up = link.across(z, "features-up", 3)
    assert set(up.unique().tolist()) == {0.0, 2.0}
    assert float(up.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(link.across(z, "gradients-down", 3), up)
    assert not torch.equal(link.across(z, "gradients-up", 3), up)


@pytest.mark.parametrize("split", ["deep", "shallow"])
def test_a_step_over_a_lossless_link_has_the_gradients_of_the_whole_network(split: str) -> None:
    torch.manual_seed(0)
    config = SplitFedConfig(split=split, widths=(4, 6), bottleneck=8, image_size=16)  # type: ignore[arg-type]
    network = SplitUNet(config).train()
    x, y = torch.rand(3, 3, 16, 16), torch.randint(0, 5, (3, 16, 16))
    whole = SplitUNet(config).train()
    whole.load_state_dict(network.state_dict())
    adam = torch.optim.Adam(whole.parameters(), lr=1e-2)
    soft_dice(whole(x), y).backward()
    adam.step()
    client, server = ClientSide(network, config, 1e-2, False), ServerSide(network, config, 1e-2)
    train_step(client, server, x, y, Link(0.0, 0, 0, 0), 0, leak=False)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, msg=name)


def test_with_all_gradients_lost_server_and_front_end_stand_still_unless_they_leak() -> None:
    config = SplitFedConfig(split="shallow", widths=(4, 6), bottleneck=8, image_size=16)
    x, y = torch.rand(2, 3, 16, 16), torch.randint(0, 5, (2, 16, 16))
    for leak in (False, True):
        torch.manual_seed(0)
        network = SplitUNet(config).train()
        before = {name: p.clone() for name, p in network.named_parameters()}
        link = Link(1.0, 0, 0, 0, lost="gradients")
        train_step(ClientSide(network, config, 1e-2, False), ServerSide(network, config, 1e-2), x, y, link, 0, leak)
        moved = {name.partition(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
        assert moved >= {"out", "dec0b"}
        assert ({"enc0a", "enc1a"} <= moved) == leak


def test_dice_of_a_class_that_a_batch_lacks() -> None:
    logits = torch.full((1, 5, 4, 4), -50.0)
    logits[:, 0] = 50.0
    y = torch.zeros(1, 4, 4, dtype=torch.long)
    assert float(soft_dice(logits, y)) == pytest.approx(0, abs=1e-5)  # (0 + 1) / (0 + 1) of the others
    wrong = logits.roll(1, 1)  # all called class 1
    assert float(soft_dice(wrong, y, True)) == pytest.approx(1 / 5)  # class 0 is all wrong, the absent count 0
    assert float(soft_dice(wrong, y)) == pytest.approx((2 * (1 - 1 / 17)) / 5)
