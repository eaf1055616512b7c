"""Predictions on a patient: what is known and what isn't, tables, bad input, many images, figures."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import media
from zoo.data.case import Case
from zoo.data.phantoms.patients import patients
from zoo.errors import DataError, MediaError, OptionError
from zoo.metrics import auroc
from zoo.models.meldd.model import MelDD, MelddConfig, udtr_adapted
from zoo.models.meldd.network import Attention


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    return np.stack([one.image for one in patients(3, size=48, lesions=5, artifacts="none").images])


@pytest.fixture
def files(stack: np.ndarray, tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"lesion{i}.png" for i in range(len(stack))]
    for path, picture in zip(paths, stack, strict=True):
        Image.fromarray(picture).save(path)
    return list(map(str, paths))


def table(folder: Path, rows: list[str], header: str = "image,site,age,sex,patient") -> str:
    path = folder / "patients.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_every_lesion_gets_a_score_against_the_others(trained: MelDD, stack: np.ndarray):
    found = trained.predict(list(stack))
    assert found.variant == "V1"
    assert found.probability.shape == (5,)
    assert np.array_equal(found.malignant, found.probability >= found.operating_point)
    assert [found.probability[i] for i in found.rank] == sorted(found.probability, reverse=True)
    assert found.attention.shape == (2, 4, 5, 5)
    assert found.received.mean() == pytest.approx(1, abs=1e-5)
    fewer = trained.predict(list(stack[:4]))
    assert not np.allclose(fewer.probability, found.probability[:4], atol=1e-7)
    alone = trained.predict(list(stack[:4]), variant="V0")
    assert np.allclose(alone.probability, trained.predict(list(stack), variant="V0").probability[:4], atol=1e-6)
    assert alone.attention.shape == (0, 4, 4, 4)


def test_the_pictures_of_an_unlike_patient_bear_the_names_of_their_files(
    trained: MelDD, files: list[str], monkeypatch: pytest.MonkeyPatch
):
    written: list[str] = []

    def tiles(some, **options):
        written.extend(text for tile in some for text in tile.lines)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("zoo.figure.tiles", tiles)
    found = trained.predict(files)
    found.known_panels()
    assert written == [f"{i + 1}: lesion{i}.png" for i in range(len(files))]
    written.clear()
    found.panels()
    assert all(any(f"lesion{i}" in text for text in written) for i in range(len(files)))


def test_a_temperature_changes_no_call(trained: MelDD, stack: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    plain = trained.predict(list(stack))
    monkeypatch.setattr(trained, "temperature", 3.0)
    found = trained.predict(list(stack))
    assert np.array_equal(found.malignant, plain.malignant)
    assert np.array_equal(found.malignant, found.probability >= found.operating_point)
    logit = np.log(plain.probability / (1 - plain.probability)) / 3
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-logit)), rtol=1e-4)
    assert found.rank == plain.rank


def test_order_of_images_only_reorders(trained: MelDD, stack: np.ndarray):
    a, b = trained.predict(list(stack)), trained.predict(list(stack[::-1]))
    assert np.allclose(a.probability, b.probability[::-1], atol=1e-6)
    assert np.allclose(a.received, b.received[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "variant", "missing"),
    [({}, "V1", "site, age, sex"), ({"site": "torso"}, "V2", "age, sex"), ({"age": 50.0}, "V3", "site, sex"),
     ({"age": 50, "sex": "male", "site": ["torso"] * 4 + ["unknown"]}, "V4", "")],
)  # fmt: skip
def test_the_variant_follows_what_is_known_and_the_rest_is_named(
    trained: MelDD, stack: np.ndarray, given: dict, variant: str, missing: str
):
    found = trained.predict(list(stack), **given)
    assert found.variant == variant
    assert any(f"not given: {missing};" in note for note in found.notes) == bool(missing)
    assert any("site of 1 of 5" in note for note in found.notes) == (variant == "V4")
    known = {"V0", "V1"} | ({"V2"} if "site" in given else set()) | ({"V3"} if "age" in given else set())
    assert set(found.evidence) == known | ({"V4"} if variant == "V4" else set())


def test_what_is_missing_is_not_invented(trained: MelDD, stack: np.ndarray):
    """V4 without anything is not V4 with the first site, sex or a usual age; and says so."""
    bare = trained.predict(list(stack), variant="V4")
    assert bare.options["site"] == ["unknown"] * 5
    assert bare.age is None
    assert bare.sex is None
    for told in ({"site": "head-neck"}, {"sex": "female"}, {"age": 0.0}):
        assert not np.array_equal(trained.predict(list(stack), variant="V4", **told).probability, bare.probability)


def test_every_lesion_has_its_site(trained: MelDD, stack: np.ndarray):
    found = trained.predict(list(stack), site=("lower-extremity", "torso", "head-neck", "unknown", "palms-soles"))
    assert found.sites == ("lower extremity", "torso", "head/neck", None, "palms/soles")


@pytest.mark.parametrize(
    ("given", "message"),
    [({"site": ("torso", "elbow", "torso", "torso", "torso")}, "site must be one of head-neck, .* not 'elbow'"),
     ({"site": ("torso", "torso")}, "2 sites were given for 5 lesions"), ({"age": 130}, "from 0 to 120, not 130")],
)  # fmt: skip
def test_what_can_not_be_is_refused(trained: MelDD, stack: np.ndarray, given: dict, message: str):
    with pytest.raises(OptionError, match=message):
        trained.predict(list(stack), **given)


def test_one_lesion_alone_is_legal(trained: MelDD, stack: np.ndarray):
    found = trained.predict([stack[0]], site="torso")
    assert found.probability.shape == (1,)
    assert any("one lesion alone" in note for note in found.notes)
    assert found.figure().size[0] > 500


def test_unreadable_images_are_left_out_with_a_note(trained: MelDD, files: list[str]):
    Path(files[1]).write_text("no picture")
    found = trained.predict(files, site=("torso", "head-neck", "palms-soles", "torso", "torso"))
    assert found.numbers == (1, 3, 4, 5)
    assert found.sites == ("torso", "palms/soles", "torso", "torso")
    assert any(note.startswith("1 of 5 images is left out") for note in found.notes)
    for path in files:
        Path(path).write_text("no picture")
    with pytest.raises(MediaError, match=r"no image of .* can be read"):
        trained.predict(files)
    with pytest.raises(MediaError, match="at least one image"):
        trained.predict([])


def test_a_variant_the_weights_lack(stack: np.ndarray):
    torch.manual_seed(0)
    model = MelDD(MelddConfig(backbone="small", image_size=32, small_channels=(4,), variants=("V0", "V1"))).eval()
    with pytest.raises(OptionError, match="these weights have no V4; choose auto or V0, V1"):
        model.predict(list(stack), variant="V4")
    found = model.predict(list(stack), site="torso", age=40)
    assert found.variant == "V1"
    assert any("V1 makes no use of site and age and sex" in note for note in found.notes)


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_table_gives_a_result_for_each_patient(zoo_cli, files: list[str], tmp_path: Path):
    names = [Path(f).name for f in files]
    path = table(tmp_path, [f"{names[0]},torso,50,male,A", f"{names[1]},,60,male,A", f"{names[2]},unknown,,,B",
                            f"{names[3]},lower extremity,,female,B", f"{names[4]},torso,70,female,B"])  # fmt: skip
    out = tmp_path / "out"
    ran = zoo_cli("predict", "meldd", path, "--weights", "none", "--device", "cpu", "--json", "--out", out)
    assert ran.code == 0, ran.err
    a, b = (json.loads(line) for line in ran.out.splitlines())
    assert (a["source"], a["age"], a["sex"], len(a["lesions"])) == ("A", 55.0, "male", 2)
    assert [one["site"] for one in a["lesions"]] == ["torso", "unknown"]
    assert (b["source"], b["age"], b["sex"], len(b["lesions"])) == ("B", 70.0, "female", 3)
    assert {path.name for path in out.iterdir()} == {"predictions.csv", "A.json", "A.png", "B.json", "B.png"}
    both = zoo.predict("meldd", path, weights="none", device="cpu")
    assert [found.source for found in both] == ["A", "B"]


@pytest.mark.parametrize(
    ("row", "message"),
    [("{f},elbow,50,male,A", "'elbow' is no site"), ("{f},torso,500,male,A", "age '500' is no number of years"),
     ("{f},torso,old,male,A", "age 'old'"), ("{f},torso,50,x,A", "sex 'x' is neither"),
     (",torso,50,male,A", "no 'image'"),
     ("../../etc/x.png,torso,50,male,A", "outside its folder")],
)  # fmt: skip
def test_tables_that_can_not_be_used_are_refused(
    trained: MelDD, files: list[str], tmp_path: Path, row: str, message: str
):
    path = table(tmp_path, [row.format(f=Path(files[0]).name)])
    with pytest.raises(DataError, match=message):
        trained.predict(path)


def test_a_patient_of_a_table_without_a_readable_image_fails_alone(zoo_cli, files: list[str], tmp_path: Path):
    path = table(tmp_path, [f"{Path(files[0]).name},torso,50,male,A", "absent.png,torso,50,male,B"])
    options = ("--weights", "none", "--device", "cpu", "--no-figure", "--out", tmp_path / "out")
    ran = zoo_cli("predict", "meldd", path, *options)
    assert ran.code == 2
    assert "no image of B can be read" in ran.err
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"A.json", "predictions.csv"}


def test_options_of_the_command_line(zoo_cli, files: list[str], tmp_path: Path):
    common = ("predict", "meldd", *files[:3], "--weights", "none", "--device", "cpu", "--out", tmp_path / "out")
    ran = zoo_cli(*common, "--with", "site=torso,torso,lower-extremity", "--with", "age=55", "--with", "sex=female",
                  "--json", "--no-figure")  # fmt: skip
    assert json.loads(ran.out)["variant"] == "V4"
    assert "must be one of head-neck" in zoo_cli(*common, "--with", "site=torso,torso,elbow").refused
    assert "2 sites were given for 3 lesions" in zoo_cli(*common, "--with", "site=torso,torso").refused
    assert "from 0 to 120" in zoo_cli(*common, "--with", "age=121").refused


# ---- many images, features, baselines ------------------------------------------------------------------------------


def test_five_thousand_images_of_one_patient_fit_into_bounded_memory(monkeypatch: pytest.MonkeyPatch):
    """Images come and go in batches, and attention between lesions in stripes."""
    torch.manual_seed(0)
    context = replace(MelddConfig().context, width=8, layers=1, ffn=8)
    config = MelddConfig(backbone="small", image_size=16, small_channels=(4,), variants=("V1",), context=context)
    model = MelDD(config).eval()
    read, batches, stripes = media.read, [], []
    ramp = np.arange(1200, dtype=np.uint32).reshape(20, 20, 3)
    monkeypatch.setattr(media, "read", lambda i: read(((ramp + i) % 251).astype(np.uint8)))
    model.backbone.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    weights = Attention.weights

    def striped(self: Attention, x: torch.Tensor, rows: slice) -> torch.Tensor:
        stripes.append(weights(self, x, rows))
        return stripes[-1]

    monkeypatch.setattr(Attention, "weights", striped)
    tracemalloc.start()
    found = model.predict(Case(None, "crowd", images=tuple(Case(i, str(i)) for i in range(5000))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.probability.shape == (5000,)
    assert found.attention is None
    assert found.received.mean() == pytest.approx(1, abs=1e-3)
    assert max(batches) <= 32
    assert max(table.shape[1] for table in stripes) <= 256
    assert peak < 40e6  # the images alone, as floats, would be three times that
    assert len(found.pictures) == 16
    assert "16 of 5000 lesions, most suspicious first" in found.panels()[0].title


def test_an_image_goes_through_the_backbone_once(trained: MelDD, stack: np.ndarray):
    seen = []
    hook = trained.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    trained.train().eval()  # forgets
    first = trained.predict(list(stack))
    again = trained.predict([*stack, stack[0]])
    hook.remove()
    assert seen == [5]
    assert np.array_equal(first.probability, trained.predict(list(stack)).probability)
    assert len(again.probability) == 6


def test_a_fixed_count_scores_every_lesion_once(stack: np.ndarray):
    torch.manual_seed(0)
    plain = MelddConfig(backbone="small", image_size=32, small_channels=(4,))
    model = MelDD(udtr_adapted(plain, 2)).eval()
    pictures = list(stack)
    found = model.predict(pictures)
    assert found.probability.shape == (5,)
    pair = model.predict(pictures[:2])
    assert np.allclose(found.probability[:2], pair.probability, atol=1e-6)
    last = model.predict([pictures[4], pictures[0]])  # filled up with the patient's first lesion
    assert found.probability[4] == pytest.approx(last.probability[0], abs=1e-6)


def test_mirror_images_are_averaged(stack: np.ndarray):
    torch.manual_seed(0)
    model = MelDD(MelddConfig(backbone="small", image_size=32, small_channels=(4,), tta=True)).eval()
    found = model.predict(list(stack))
    mirrored = model.predict([picture[:, ::-1].copy() for picture in stack])
    assert np.allclose(found.probability, mirrored.probability, atol=1e-6)


def test_figure_and_record_tell_the_same(trained: MelDD, tmp_path: Path):
    found = trained.predict("phantom:patients?seed=1&size=64&lesions=14")
    written = {path.suffix for path in found.save(tmp_path, "p")}
    assert written == {".json", ".png"}
    record = json.loads((tmp_path / "p.json").read_text())
    assert [one["number"] for one in record["lesions"]] == list(range(1, 15))
    assert record["most_suspicious_first"][0] == 1 + int(found.probability.argmax())
    assert [panel.title.split(":")[0] for panel in found.panels()] == [
        f"14 lesions, most suspicious first (V4, age {found.age:g}, {found.sex}); others", "who looks at whom", "sites",
        "what each kind of evidence changes",
    ]  # fmt: skip
    assert "14 lesions" in found.summary()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["V1", "V2", "V4"])
def test_what_the_others_add_tells_ducklings_from_naevi_and_attention_does_not(name: str):
    """On phantoms that the demo weights never saw."""
    model = zoo.load("meldd", device="cpu")
    raised, received, duckling = [], [], []
    for seed in range(40_000, 40_060):
        patient = patients(seed, size=64, risk=0.2, lesions=12)
        found = model.predict(patient, variant=name)
        for i, lesion in enumerate(patient.images):
            if lesion.attributes["duckling"] or lesion.label == "benign":
                raised.append(found.raised[i])
                received.append(found.received[i])
                duckling.append(int(lesion.attributes["duckling"]))
    assert auroc(np.array(raised), np.array(duckling)) > 0.7
    assert auroc(np.array(received), np.array(duckling)) < 0.65
