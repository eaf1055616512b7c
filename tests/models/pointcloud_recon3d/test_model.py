"""predict as a user meets it: masks or stain, options, files that other programs open, and bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy import ndimage

from zoo.data.phantoms.serial_sections import serial_sections
from zoo.errors import MediaError, OptionError
from zoo.models.pointcloud_recon3d.model import PointCloudRecon3D, Recon3DConfig
from zoo.models.pointcloud_recon3d.network import SegmenterConfig

LAYERS, SIZE = 4, 96


@pytest.fixture(scope="module")
def model() -> PointCloudRecon3D:
    torch.manual_seed(0)
    return PointCloudRecon3D(Recon3DConfig(SegmenterConfig(backbone="unet", patch=64, global_planes=(16, 32)))).eval()


@pytest.fixture(scope="module")
def case():
    return serial_sections(1, layers=LAYERS, size=SIZE)


@pytest.fixture
def folders(case, tmp_path) -> tuple[Path, Path]:
    """Sections and masks as files whose alphabetical order is not their order."""
    for name, stack in (("sections", case.image), ("masks", 255 * case.masks["mask"])):
        (tmp_path / name).mkdir()
        for z in range(LAYERS):
            Image.fromarray(stack[z]).save(tmp_path / name / f"s{(2, 3, 10, 11)[z]}.png")
    return tmp_path / "sections", tmp_path / "masks"


def test_a_folder_with_masks_is_registered_nearer_to_the_truth(model, case, folders):
    sections, masks = folders
    result = model.predict(str(sections), masks=str(masks))
    before, after = result.true_error(case.attributes["transforms"])
    assert after < 0.7 * before
    assert [report.name for report in result.layers] == ["s2.png", "s3.png", "s10.png", "s11.png"]
    assert any("2 before 10" in note for note in result.notes)
    assert result.points.shape == (len(result.label), 3)
    assert set(np.unique(result.layer)) == set(range(LAYERS))
    assert np.array_equal(np.stack(result.tumour_masks), case.masks["mask"])


def test_z_is_the_layer_times_the_factor_and_gaps_are_filled(model, case):
    result = model.predict(case.image, masks=list(case.masks["mask"]))
    assert np.unique(result.points[:, 2]).tolist() == list(range(4 * (LAYERS - 1) + 1))
    assert set(result.layer[result.points[:, 2] == 2]) == {0}  # of equals the lower
    assert set(result.layer[result.points[:, 2] == 3]) == {1}
    bare = model.predict(case.image, masks=list(case.masks["mask"]), interpolate=False)
    assert np.unique(bare.points[:, 2]).tolist() == [0, 4, 8, 12]


def test_spacing_scales_the_cloud(model, case):
    masks = list(case.masks["mask"])
    plain = model.predict(case.image, masks=masks, interpolate=False, register=False)
    scaled = model.predict(case.image, masks=masks, interpolate=False, register=False, spacing=(0.5, 0.25, 5))
    assert scaled.unit == "µm"
    assert np.unique(scaled.points[:, 2]).tolist() == [0, 5, 10, 15]
    assert np.ptp(scaled.points[:, 0]) == pytest.approx(0.5 * np.ptp(plain.points[:, 0]), abs=0.5)
    assert np.ptp(scaled.points[:, 1]) == pytest.approx(0.25 * np.ptp(plain.points[:, 1]), abs=0.5)


def test_one_image_gives_its_layer(model, case):
    result = model.predict(case.image[0])
    assert len(result.layers) == 1
    assert result.transforms.tolist() == [[0, 0, 0]]
    assert len(result.panels()) == 2


def test_two_valued_grey_images_are_masks(model, case):
    result = model.predict([255 * mask for mask in case.masks["mask"]])
    assert (result.label == 1).all()
    assert any("taken for masks" in note for note in result.notes)


def test_a_volume_keeps_its_place_and_spacing(model, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    data = np.zeros((40, 30, 6), np.float32)
    data[10:30, 8:22, 1:5] = 100
    nibabel.save(nibabel.Nifti1Image(data, np.diag([0.5, 0.5, 3, 1])), tmp_path / "v.nii.gz")
    mask = nibabel.Nifti1Image((data > 0).astype(np.uint8), np.diag([0.5, 0.5, 3, 1]))
    nibabel.save(mask, tmp_path / "m.nii.gz")
    result = model.predict(str(tmp_path / "v.nii.gz"), masks=str(tmp_path / "m.nii.gz"), interpolate=False)
    assert result.options["register"] is False
    assert (result.unit, result.spacing) == ("mm", (0.5, 0.5, 3))
    assert np.unique(result.points[:, 2]).tolist() == [3, 6, 9, 12]
    assert (result.label == 1).sum() == 20 * 14 * 4


def test_the_legend_names_no_tumour_where_there_is_none(model, case):
    masks = case.masks["mask"]
    found, none = (model.predict(case.image, masks=list(one)) for one in (masks, np.zeros_like(masks)))
    assert any("tumour" in entry.name for entry in found.legend())
    assert not any("tumour" in entry.name for entry in none.legend())


@pytest.mark.parametrize("band", ["auto", "all", "random", "20,60,20,60"])
def test_every_band(model, case, band):
    result = model.predict(case.image, masks=list(case.masks["mask"]), band=band, band_mode="or")
    assert all(0 < report.selected <= report.points for report in result.layers[1:])
    assert (result.layers[1].selected == result.layers[1].points) == (band == "all")


def test_segmentation_is_by_patches_that_overlap(model, case):
    rgb = case.image[0]
    whole = model.segment(rgb)
    x = torch.from_numpy(rgb[:64, :64]).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = model(x).softmax(1)[0, 1].numpy()
    assert whole.shape == (SIZE, SIZE)
    assert np.allclose(whole[:32, :32], expected[:32, :32], atol=1e-5)  # where the first patch is alone
    assert not model.segment(rgb, np.zeros((SIZE, SIZE), bool)).any()


def test_a_volume_with_an_affine_is_written_where_it_lay_in_the_scanner(model, tmp_path):
    nib = pytest.importorskip("nibabel")
    trimesh = pytest.importorskip("trimesh")
    voxels = np.zeros((20, 24, 6), np.uint8)  # i, j, k
    voxels[5:9, 12:20, 2:4] = 1
    affine = np.array(
        [[-2.0, 0, 0, 30], [0, 0, 4.0, -50], [0, 3.0, 0, 7], [0, 0, 0, 1]]
    )  # j to the head, k to the front
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "v.nii.gz")
    result = model.predict(str(tmp_path / "v.nii.gz"), downsample=1, mesh=True, interpolate=False)
    corners = np.array([[5, 12, 2], [8, 19, 3]]) @ affine[:3, :3].T + affine[:3, 3]
    found = result.placed(result.points)
    half = np.array([2.0, 4.0, 3.0]) / 2  # points lie anywhere within their voxel
    assert (found.min(0) >= corners.min(0) - half - 1e-3).all()
    assert (found.max(0) <= corners.max(0) + half + 1e-3).all()
    assert np.abs(found.mean(0) - corners.mean(0)).max() < 0.5
    written = {path.name: path for path in result.save(tmp_path / "out", "v")}
    assert np.allclose(trimesh.load(written["v_cloud.ply"]).vertices, found, atol=1e-3)
    surface = trimesh.load(written["v_tumour_mesh.ply"])
    assert surface.volume > 0  # its triangles still face outwards
    assert np.abs(surface.bounds.mean(0) - corners.mean(0)).max() < 4
    assert result.to_dict()["files_in"] == "mm of the patient (RAS+)"


def test_the_files_hold_every_point_and_the_surfaces_around_them(model, case, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    result = model.predict(case.image, masks=list(case.masks["mask"]), mesh=True, views=2, gif=True)
    written = {path.name: path for path in result.save(tmp_path, "spec")}
    assert np.allclose(np.asarray(trimesh.load(written["spec_cloud.ply"]).vertices), result.points, atol=1e-4)
    record = json.loads(written["spec.json"].read_text())
    assert record["cloud"] == "spec_cloud.ply"
    assert sum(record["points"].values()) == len(result.points)
    assert len(record["layers"]) == LAYERS
    wanted = {"angle", "shift", "rmse_selected", "rmse_all", "inliers", "iterations", "seconds", "flags"}
    assert wanted <= record["layers"][1].keys()
    inside = result.points[result.label == 1]
    tumour = trimesh.load(written["spec_tumour_mesh.ply"])
    assert (tumour.bounds[0] - 3 <= inside.min(0)).all()
    assert (tumour.bounds[1] + 3 >= inside.max(0)).all()
    assert Image.open(written["spec_view01.png"]).size == (512, 512)
    assert Image.open(written["spec_orbit.gif"]).n_frames == 2


def test_large_sections_are_reduced(model, case):
    big = np.kron(case.image, np.ones((1, 8, 8, 1), np.uint8))
    result = model.predict(big, working_size=SIZE)
    assert result.options["reduced_by"] == 8
    assert 4 * SIZE < np.ptp(result.points[:, 0]) < 8 * SIZE  # in pixels as scanned


def test_glass_alone_is_refused(model):
    with pytest.raises(MediaError, match="no tissue was found"):
        model.predict(np.full((2, 64, 64, 3), 243, np.uint8))


def test_empty_layers_are_flagged(model, case):
    images, masks = case.image.copy(), case.masks["mask"].copy()
    images[1], masks[1] = 243, 0
    result = model.predict(images, masks=list(masks))
    assert result.layers[1].registered_on == "nothing"
    assert any("flagged" in note for note in result.notes)
    assert math.isfinite(result.points.sum())


@pytest.mark.parametrize("options", [{"band": "1,2,3"}, {"band": "5,1,2,9"}, {"spacing": (1, 2, 3, 4)}])
def test_wrong_options_are_refused(model, case, options):
    with pytest.raises(OptionError):
        model.predict(case.image, **options)


def on_glass(angle: float, dx: float, dy: float, step: int) -> np.ndarray:
    """A real stained section on a white ground, turned about the middle (degrees) and shifted (px of the whole)."""
    image = np.pad(skimage.data.immunohistochemistry(), ((94, 94), (94, 94), (0, 0)), constant_values=255)[
        ::step, ::step
    ]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    back, centre = np.array([[c, -s], [s, c]]), (len(image) - 1) / 2  # rows and columns of the image to the section's
    start = centre - back @ (centre + np.array([dy, dx]) / step)
    planes = [ndimage.affine_transform(image[..., k].astype(float), back, start, order=1, cval=255) for k in range(3)]
    return np.stack(planes, -1).round().astype(np.uint8)


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_real_section_that_was_moved_is_found_and_one_that_was_not_stays(demo, step: int):
    moved = [(0, 0, 0), (8, 20, 15), (-12, 30, -25), (-12, 30, -25)]
    result = demo("pointcloud-recon3d").predict(np.stack([on_glass(*one, step) for one in moved]))
    before, after = result.true_error([(angle, dx / step, dy / step) for angle, dx, dy in moved])
    assert before > 38 / step
    assert after < 2 / step
    assert result.transforms[3] == pytest.approx(result.transforms[2], abs=0.1)  # degrees, px: as the one below
    assert not [flag for report in result.layers for flag in report.flags]
