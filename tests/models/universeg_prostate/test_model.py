"""The network and its savings, the support set and what is drawn from it, and what a scan comes back as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from zoo import media, registry
from zoo.data.phantoms.prostate_mr import prostate_mr
from zoo.errors import DataError, OptionError, WeightsError
from zoo.models.universeg_prostate import model as room
from zoo.models.universeg_prostate.model import UniverSegConfig, UniverSegProstate, convert
from zoo.models.universeg_prostate.network import UniverSeg, _larger, plain
from zoo.models.universeg_prostate.support import Support, drawn, read_support, region, weights

nib = pytest.importorskip("nibabel")
announced = pytest.mark.skipif(
    "universeg-prostate" not in {entry.name for entry in registry.entries()},
    reason="the model is announced with the record of its claim",
)
SUPPORT = "phantom:prostate-mr?n=2&seed=9000&size=32&slices=8"
GREY = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
SCAN = "phantom:prostate-mr?seed=3&size=32&slices=8"


@pytest.fixture(scope="module")
def small() -> UniverSegProstate:
    torch.manual_seed(0)
    model = UniverSegProstate(UniverSegConfig(channels=(6, 8, 8), side=32)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def _episode(seed: int, b: int, s: int, side: int = 16) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    images, labels = (
        torch.rand(b, s, 1, side, side, generator=rng),
        torch.rand(b, s, 1, side, side, generator=rng) > 0.5,
    )
    return torch.rand(b, 1, side, side, generator=rng), images, labels.float()


# ---- the network -----------------------------------------------------------------------------------------------------


def test_the_network_has_the_papers_size() -> None:
    tensors = UniverSeg().state_dict()
    assert (sum(one.numel() for one in tensors.values()), len(tensors)) == (1_182_785, 44)


@given(st.integers(0, 99), st.integers(1, 2), st.integers(1, 19), st.sampled_from([(4, 6), (4, 6, 5), (3, 4, 5, 6)]))
@settings(max_examples=12, deadline=None)
def test_the_savings_change_nothing(seed: int, b: int, s: int, channels: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    net = UniverSeg(channels).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    episode = [part.double() for part in _episode(seed, b, s)]
    fast, slow = net(*episode), plain(net, *episode)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-9)
    ours = torch.autograd.grad(fast.square().sum(), [*net.parameters()], allow_unused=True)
    theirs = torch.autograd.grad(slow.square().sum(), [*net.parameters()], allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_in_single_precision_they_change_less_than_1e_5() -> None:
    torch.manual_seed(1)
    net, episode = UniverSeg(), _episode(0, 1, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(*episode), plain(net, *episode), rtol=0, atol=1e-5)


def test_a_volume_costs_less_than_a_third_of_the_plain_network() -> None:
    """In multiplications, with what is known of the supports kept across two slices; times are in benchmarks/."""
    net, (query, images, labels) = UniverSeg((16, 16, 16, 16)), _episode(0, 2, 16, 32)
    pairs = torch.cat([images, labels], 2)[:1]
    with torch.no_grad(), FlopCounterMode(display=False) as slow:
        for one in query:
            plain(net, one[None], images[:1], labels[:1])
    with torch.no_grad(), FlopCounterMode(display=False) as fast:
        known = net.known(pairs[0])
        for one in query:
            net.query(one[None], pairs.mean(1), known[None])
    assert fast.get_total_flops() < slow.get_total_flops() / 3


def test_supports_have_no_order_and_doubling_them_is_nothing(small: UniverSegProstate) -> None:
    query, images, labels = _episode(0, 2, 7, 32)
    order = torch.randperm(7)
    with torch.no_grad():
        expected = small(query, images, labels)
        for rows in (order, torch.arange(7).repeat(2)):
            torch.testing.assert_close(small(query, images[:, rows], labels[:, rows]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("s", [1, 70])
def test_any_number_of_supports_and_none_with_the_region(small: UniverSegProstate, s: int) -> None:
    query, images, labels = _episode(0, 1, s, 32)
    with torch.no_grad():
        assert small(query, images, torch.zeros_like(labels)).isfinite().all()


def test_enlarging_keeps_the_corners() -> None:
    x = torch.rand(1, 1, 3, 3)
    larger = _larger(x)
    torch.testing.assert_close(larger[..., ::5, ::5], x[..., ::2, ::2])


@pytest.mark.parametrize(
    "wrong",
    [{"channels": (8,)}, {"channels": (8, 8, 8), "side": 30}, {"method": "nnunet", "channels": (4,) * 5, "side": 16}],
)
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="side="):
        UniverSegProstate(UniverSegConfig(**{"side": 32, **wrong}))


# ---- which supports --------------------------------------------------------------------------------------------------


def _support(z: list[int], labelled: list[bool] | None = None) -> Support:
    n = len(z)
    labels = np.zeros((n, 4, 4), bool)
    labels[[True] * n if labelled is None else labelled] = True
    return Support(np.zeros((n, 4, 4), np.float32), labels, np.array(z), np.full(n, 10), ("a",) * n)


def test_weights_fall_with_the_distance_in_slices() -> None:
    w = weights(_support([3, 5, 8]), np.array([5.0]), 10, "z-weighted", "index")
    np.testing.assert_allclose(w[0] / w[0].max(), [1 / 3, 1, 1 / 4])
    np.testing.assert_allclose(w.sum(), 1)
    np.testing.assert_allclose(weights(_support([3, 5, 8]), np.array([5.0]), 10, "random", "index"), 1 / 3)
    # in a volume of 19 slices the tenth lies as high as slice 4.5 of 10
    relative = weights(_support([3, 4, 8]), np.array([8.0]), 19, "z-weighted", "relative")[0]
    np.testing.assert_allclose(relative / relative.max(), [1 / 3, 1, 1 / 9])


def test_draws_are_without_replacement_and_in_proportion() -> None:
    w = np.array([[0.1, 0.2, 0.3, 0.4]])
    one = drawn(w, 1, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(one.ravel()) / 20_000, w[0], atol=0.012)
    two = drawn(np.repeat(w, 3, 0), 2, 2_000, np.random.default_rng(0))
    assert two.shape == (2_000, 3, 2)
    assert (two[..., 0] < two[..., 1]).all()
    # the first two of successive draws: P({i, j}) = w_i w_j / (1 - w_i) + w_j w_i / (1 - w_j)
    pair = float(((two == [2, 3]).all(-1)).mean())
    assert pair == pytest.approx(0.3 * 0.4 / 0.7 + 0.4 * 0.3 / 0.6, abs=0.02)
    np.testing.assert_array_equal(drawn(w, 4, 5, np.random.default_rng(0)), [[[0, 1, 2, 3]]])


def test_the_inclusive_pool_has_the_slices_that_show_the_region() -> None:
    support = _support([0, 1, 2], [False, True, True])
    assert support.pooled("inclusive").z.tolist() == [1, 2]
    assert len(support.pooled("agnostic")) == 3


# ---- what a support set may be ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms as images/ and masks/, one of them stored upside down."""
    root = tmp_path_factory.mktemp("support")
    for place, seed in enumerate((9000, 9001)):
        case = prostate_mr(seed, size=32, slices=8)
        image, mask = case.image, np.asarray(case.masks["mask"])
        affine, data = image.affine, image.array
        if place:
            turn = np.eye(4)
            turn[2, 2], turn[2, 3] = -1, data.shape[0] - 1
            affine, data, mask = affine @ turn, data[::-1], mask[::-1]
        for name, array in (("images", data), ("masks", mask)):
            (root / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array.T, affine), root / name / f"case{place}.nii.gz")
    return root


def test_folder_table_pairs_and_phantom_are_the_same_set(folder: Path) -> None:
    table = folder / "support.csv"
    table.write_text("image,mask\n" + "".join(f"images/case{i}.nii.gz,masks/case{i}.nii.gz\n" for i in (0, 1)))
    files = [(folder / "images" / f"case{i}.nii.gz", folder / "masks" / f"case{i}.nii.gz") for i in (0, 1)]
    expected = read_support(SUPPORT, "gland", 32, "percentiles")
    for given_ in (folder, str(folder), table, files, [(media.read(files[0][0]), files[0][1]), files[1]]):
        found = read_support(given_, "gland", 32, "percentiles")
        np.testing.assert_allclose(found.images, expected.images, atol=1e-6)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.z.tolist() == [*range(8), *range(8)]
    assert read_support(SUPPORT, "tz", 32, "percentiles").labels.sum() < expected.labels.sum()
    zone = read_support(folder, "1", 32, "percentiles")
    np.testing.assert_array_equal(zone.labels, read_support(SUPPORT, "tz", 32, "percentiles").labels)


def test_slices_are_supports_with_and_without_their_place() -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.random((20, 24)).astype(np.float32), np.eye(20, 24, dtype=np.uint8)
    assert read_support((image, mask), "gland", 16, "min-max").z.tolist() == [-1]
    assert read_support([(image, mask, 4), (image, mask, 7)], "gland", 16, "min-max").z.tolist() == [4, 7]
    volume = np.stack([image, 1 - image, image])
    found = read_support([(volume, np.stack([mask] * 3))], "gland", 16, "min-max")
    assert found.images.shape == (3, 16, 16)
    assert (found.images.min(), found.images.max()) == pytest.approx((0, 1), abs=0.2)


@pytest.mark.parametrize(
    ("support", "sentence"),
    [
        ([], "the support set is empty; give support=FOLDER"),
        (7, "option support must be a images|a support set is no int"),
        ([np.zeros((4, 4))], "support 1 is no pair"),
        ([(np.ones((4, 4)), np.ones((4, 5), np.uint8))], "differ in size"),
        ([(GREY, np.zeros((8, 8), np.uint8))], "no mask of the support set has anything of roi=gland"),
        (
            [(GREY, np.ones((8, 8), np.uint8), -1)],
            "the third value of support 1 must be the slice's index",
        ),
    ],
)
def test_what_is_no_support_set_is_refused(small: UniverSegProstate, support: Any, sentence: str) -> None:
    with pytest.raises((OptionError, DataError), match=sentence):
        small.predict(SCAN, support=support)


@announced
def test_without_a_support_set_it_says_how_to_give_one(zoo_cli: Any, tmp_path: Path) -> None:
    ran = zoo_cli("predict", "universeg-prostate", SCAN, "--out", tmp_path / "out", "--device", "cpu")
    assert ran.code == 2
    assert "universeg-prostate needs support" in ran.err
    assert "--with support=" in ran.err
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    ran = zoo_cli("predict", "universeg-prostate", SCAN, "--with", f"support={tmp_path / 'empty'}", "--device", "cpu")
    assert ran.code == 2
    assert "holds neither images/ and masks/ nor a table; give support=FOLDER" in ran.err


def test_a_region_that_nobody_knows_is_refused_with_those_there_are() -> None:
    case = prostate_mr(1, size=32, slices=8)
    with pytest.raises(OptionError, match=r"have no region 'apex'; name one of gland, tz, pz"):
        region(case, "apex")
    assert (
        region(case, "peripheral zone", ("background", "TZ", "Peripheral Zone")).sum()
        == (case.masks["mask"] == 2).sum()
    )
    assert region(case, "PZ").sum() == region(case, "2").sum() == (case.masks["mask"] == 2).sum()


# ---- a scan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_scan_comes_back_on_its_grid_in_its_format(small: UniverSegProstate, suffix: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    case = prostate_mr(5, size=32, slices=8)
    image = sitk.GetImageFromArray(case.image.array)
    image.SetSpacing((4.5, 4.5, 9.0))
    image.SetDirection((0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, -1.0))  # oblique and flipped
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    result = small.predict(tmp_path / f"scan{suffix}", support=SUPPORT, threshold=0.4)
    written = {path.name: path for path in result.save(tmp_path / "out")}
    mask = sitk.ReadImage(str(written[f"scan_mask{suffix}"]))
    assert mask.GetPixelID() == sitk.sitkUInt8
    for what in ("GetSpacing", "GetDirection", "GetOrigin", "GetSize"):
        np.testing.assert_allclose(getattr(mask, what)(), getattr(image, what)(), atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), result.mask)
    assert result.measurements["volume ml"] == pytest.approx(result.mask.sum() * 4.5 * 4.5 * 9 / 1000, rel=1e-4)
    assert result.slice_areas.sum() == pytest.approx(result.mask.sum() * 4.5**2, rel=1e-4)


def test_the_direction_of_storage_does_not_matter(small: UniverSegProstate) -> None:
    image = prostate_mr(5, size=32, slices=8).image
    turn = np.eye(4)
    turn[2, 2], turn[2, 3] = -1, 7
    other = media.Image(image.array[::-1], spacing=image.spacing, affine=image.affine @ turn, ndim_spatial=3)
    one, two = (small.predict(i, support=SUPPORT, size=5) for i in (image, other))
    np.testing.assert_allclose(one.probability, two.probability[::-1], atol=1e-6)


def test_draws_are_averaged_and_their_spread_is_told(small: UniverSegProstate) -> None:
    result = small.predict(SCAN, support=SUPPORT, size=4, ensemble=3)
    assert result.used.chosen.shape == (3, 8, 4)
    assert result.spread.max() > 0
    again = small.predict(SCAN, support=SUPPORT, size=4, ensemble=3)
    np.testing.assert_array_equal(result.probability, again.probability)
    assert (small.predict(SCAN, support=SUPPORT, size=4, ensemble=3, seed=1).used.chosen != result.used.chosen).any()
    for whole in (small.predict(SCAN, support=SUPPORT, select="all", size=4), small.predict(SCAN, support=SUPPORT)):
        assert whole.used.chosen.shape == (1, 8, 16)  # no more than 64: all of them, once
        assert whole.spread.max() == 0
    inclusive = small.predict(SCAN, support=SUPPORT, pool="inclusive")
    assert inclusive.used.support.labels.any((1, 2)).all()
    assert inclusive.used.chosen.shape[-1] < 16
    record = result.to_dict()
    assert len(record["slices"]) == 8
    assert record["support_pool"][9] == "prostate-mr-9001 slice 1"


def test_what_is_kept_of_the_supports_changes_nothing(
    small: UniverSegProstate, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = small.predict(SCAN, support=SUPPORT, size=5, tta=True)
    monkeypatch.setattr(room, "KEPT", 0)
    anew = small.predict(SCAN, support=SUPPORT, size=5, tta=True)
    np.testing.assert_allclose(kept.probability, anew.probability, atol=1e-6)


def test_a_single_slice_is_weighted_where_its_place_is_known(small: UniverSegProstate) -> None:
    plane = prostate_mr(5, size=40, slices=8).image.array[3]
    unknown = small.predict(plane, support=SUPPORT, size=4)
    assert unknown.mask.shape == plane.shape
    assert any("the place of a slice in its volume isn't known" in note for note in unknown.notes)
    placed = small.predict(plane, support=SUPPORT, size=4, slice=3)
    assert placed.notes == ()
    w = placed.used.weights[0]
    assert w[3] == w.max() == pytest.approx(4 * w[0])


# ---- the released weights --------------------------------------------------------------------------------------------


def released(channels: tuple[int, ...] = (64, 64, 64, 64)) -> dict[str, torch.Tensor]:
    """Made-up weights of the documented layout of universeg_v1_nf64_ss64_STA.pt."""
    c, rng, found = channels, torch.Generator().manual_seed(0), {}
    blocks = {f"enc_blocks.{i}": (3 if i == 0 else 2 * c[i - 1], c[i]) for i in range(len(c))}
    up, below = c[-2::-1], c[-1]
    for i, width in enumerate(up):
        blocks[f"dec_blocks.{i}"] = (2 * (below + width), width)
        below = width
    for name, (inputs, width) in blocks.items():
        for part, shape in (
            ("cross.cross_conv", (width, inputs, 3, 3)),
            ("target.vmapped.conv", (width, width, 3, 3)),
            ("support.vmapped.conv", (width, width, 3, 3)),
        ):
            found[f"{name}.{part}.weight"] = 0.05 * torch.randn(shape, generator=rng)
            found[f"{name}.{part}.bias"] = torch.randn(width, generator=rng)
    found["out_conv.conv.weight"], found["out_conv.conv.bias"] = torch.randn(1, below, 1, 1), torch.randn(1)
    return found


def test_weights_of_the_released_layout_are_converted_tensor_by_tensor() -> None:
    theirs = released()
    model = convert(theirs)
    ours = model.net.state_dict()
    assert model.config == UniverSegConfig()
    assert sum(one.numel() for one in ours.values()) == sum(one.numel() for one in theirs.values()) == 1_182_785
    assert torch.equal(ours["encoder.2.query.weight"], theirs["enc_blocks.2.target.vmapped.conv.weight"])
    assert torch.equal(ours["decoder.0.cross.bias"], theirs["dec_blocks.0.cross.cross_conv.bias"])
    assert torch.equal(ours["out.weight"], theirs["out_conv.conv.weight"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"enc_blocks.9.extra": torch.zeros(1)}, "'enc_blocks.9.extra' is none of UniverSeg's"),
        ({"dec_blocks.1.support.vmapped.conv.bias": None}, "decoder.1.support.bias is missing"),
        ({"dec_blocks.0.cross.cross_conv.weight": torch.zeros(8, 9, 3, 3)}, r"decoder.0.cross.weight has shape \[8, 9"),
        ({"enc_blocks.1.cross.cross_conv.weight": None}, "lack enc_blocks.1"),
    ],
)
def test_weights_of_another_layout_are_refused(change: dict[str, torch.Tensor | None], sentence: str) -> None:
    tensors = {name: one for name, one in {**released((8, 8, 8)), **change}.items() if one is not None}
    with pytest.raises(WeightsError, match=sentence):
        convert(tensors)
