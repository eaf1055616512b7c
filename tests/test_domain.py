"""The kind of images that weights know: how it is measured, kept, and what becomes of an image that is of another."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import Classification, Input, Model, Output, Paper, Plugin, media
from zoo.domain import SHARE, Cloud, Contrast, Domain, calibrated, looks, read, together
from zoo.errors import MediaError, WeightsError
from zoo.media.appearance import BANDS, COLOURS, GREY_BANDS, MEASURES, bands, colours, statistics
from zoo.prediction import Provenance, tempered
from zoo.training.reference import fitted
from zoo.training.strangers import COUNT, MEASURED, stranger, strangers
from zoo.weights import DOMAIN

CARD = Plugin(
    name="toy-kind",
    title="t",
    summary="s",
    paper=Paper("T", ("A B",), "ISIC"),
    task="classification",
    modality="any",
    inputs=(Input("image", "image", "a picture", required=True),),
    outputs=(Output("label", "l"),),
    labels=("a", "b"),
    model="a.b:C",
)


def ground(seed: int, level: float = 0.6) -> np.ndarray:
    """A grey picture: soft noise on a ground of about ``level``."""
    rng = np.random.default_rng(seed)
    noise = np.kron(rng.normal(0, 0.05, (8, 8)), np.ones((6, 6)))
    return (255 * np.clip(level + rng.normal(0, 0.03) + noise, 0, 1)).astype(np.uint8)


@dataclass(frozen=True)
class ToyConfig:
    pass


class Toy(Model[Classification]):
    plugin = CARD
    config_class = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.layer = torch.nn.Linear(1, 1)

    def _predict(self, images):
        return [Classification(image=image, probabilities={"a": 0.9, "b": 0.1}) for image in images]


class Looking(Toy):
    def _network_features(self, images):
        return torch.tensor([[float(image.grey().mean()), 1.0] for image in images])


def known(model: Model, count: int = 60) -> Model:
    model.domain = Domain.of(model.measured(media.read(ground(seed)) for seed in range(count)))
    return model


def test_new_images_of_the_kind_pass_and_others_do_not() -> None:
    model = known(Toy())
    for seed in range(1000, 1040):
        assert not model.predict(ground(seed)).unlike
    colour = np.stack([ground(1), ground(2) // 2, ground(3) // 3], axis=-1)
    for strange in (ground(5, 0.15), colour, np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)):
        assert model.predict(strange).unlike
    assert model.predict(colour).domain.reason == "colour"


def test_the_limit_is_where_one_in_a_thousand_lies() -> None:
    """On normal vectors the share that is called unlike is what is said, or a little less."""
    rng = np.random.default_rng(7)
    mix = rng.normal(size=(6, 6))
    train, new = rng.normal(size=(2000, 6)) @ mix, rng.normal(size=(40_000, 6)) @ mix
    beyond = float((Cloud.calibrated(train, 0.0).farther(new) < SHARE).mean())
    assert 0.0001 < beyond < 0.0015
    few = float((Cloud.calibrated(train[:40], 0.0).farther(new) < SHARE).mean())
    assert few < 0.0015  # few images make the limit wide, not narrow


def test_distance_is_mahalanobis() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5000, 3)) * (1.0, 2.0, 5.0) + 4
    cloud = Cloud.of(x, 0.0)
    away = np.array([[4.0, 4.0, 4.0], [4 + 3.0, 4.0, 4.0], [4.0, 4.0, 4 + 5.0]])
    np.testing.assert_allclose(cloud.distance(away), np.array([0, 3, 1]) / np.sqrt(3), atol=0.05)


def test_features_tell_what_statistics_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = known(Looking())
    assert not model.predict(ground(1000)).unlike
    monkeypatch.setattr(Looking, "_network_features", lambda self, images: torch.full((len(images), 2), 9.0))
    found = model.predict(ground(1000))
    assert found.unlike
    assert found.domain.reason == "what the network makes of it"
    monkeypatch.setattr(Looking, "_network_features", lambda self, images: torch.zeros(len(images), 3))
    with pytest.raises(WeightsError, match="another network"):
        model.predict(ground(1000))


def test_an_unlike_image_gets_no_diagnosis_anywhere(tmp_path: Path) -> None:
    model = known(Toy())
    model.provenance = Provenance("toy-kind", weights="here", trained_on="csv:x.csv", disclaimer="d")
    right, wrong = model.predict(ground(1000)), model.predict(ground(5, 0.1))
    assert right.label == "a"
    assert "90.0%" in right.summary()
    assert right.notes == ()
    assert wrong.label is None
    assert wrong.most_probable == "a"
    assert "90" not in wrong.summary().replace("99.9%", "")
    assert "unlike the training images (beyond 99.9% of them, extrapolated from 60)" in wrong.summary()
    assert any("no result is shown" in note for note in wrong.notes)
    wrong.save(tmp_path, "x")
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["label"] is None
    assert record["domain"]["unlike_training_images"] is True
    assert record["probabilities"] == {"a": 0.9, "b": 0.1}
    shown, withheld = (np.asarray(one.figure()) for one in (right, wrong))
    assert (withheld[2, 2] == (213, 94, 0)).all()
    assert (shown[2, 2] == 255).all()
    assert json.dumps(right.to_dict())
    assert right.to_dict()["domain"]["unlike_training_images"] is False


def test_a_panel_with_percentages_is_not_drawn_for_an_unlike_image(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("zoo.figure.bars", lambda *args, **options: drawn.append(args) or Image.new("RGB", (8, 8)))
    model = known(Toy())
    model.predict(ground(5, 0.1)).figure()
    assert not drawn
    model.predict(ground(1000)).figure()
    assert drawn


def test_weights_without_a_domain_say_so() -> None:
    model = Toy()
    assert model.predict(ground(1)).notes == ()  # untrained
    model.provenance = Provenance("toy-kind", weights="hf://a/b", trained_on="csv:x.csv", disclaimer="d")
    found = model.predict(ground(1))
    assert found.domain is None
    assert not found.unlike
    assert found.label == "a"
    assert "can't be told" in found.notes[-1]


def test_weights_of_phantoms_are_a_demonstration_on_anything_else() -> None:
    model = known(Toy())
    model.provenance = Provenance("toy-kind", weights="demo", trained_on="phantom:fundus?n=40", disclaimer="d")
    assert not model.predict("phantom:fundus?seed=3").demonstration
    found = model.predict(ground(1000))
    assert found.demonstration
    assert not found.unlike
    assert found.summary().startswith("demonstration: a 90.0%")
    plain = replace(model.provenance, trained_on="csv:x.csv")
    marked, found.provenance = np.asarray(found.figure()), plain
    assert (marked != np.asarray(found.figure())).any(-1).mean() > 0.02


def test_empty_and_saturated_images_are_refused() -> None:
    for nothing in (
        np.zeros((20, 20), np.uint8),
        np.full((20, 20, 3), 255, np.uint8),
        np.eye(40, dtype=np.uint8) * 255,
    ):
        with pytest.raises(MediaError, match="no answer would mean anything"):
            Toy().predict(nothing)


def test_it_travels_with_the_weights(tmp_path: Path) -> None:
    model = known(Looking())
    model.temperature = 1.75
    model.save_pretrained(tmp_path)
    stored = read(tmp_path / DOMAIN)
    pictures = [media.read(ground(1000 + k, 0.5)) for k in range(9)]
    measured = model.measured(pictures)
    assert stored.judge(measured) == model.domain.judge(measured)
    np.testing.assert_allclose(
        stored.clouds["features"].farther(measured["features"]),
        model.domain.clouds["features"].farther(measured["features"]),
        rtol=0.02,
    )
    assert json.loads((tmp_path / "config.json").read_text())["temperature"] == 1.75
    model.domain = None
    model.save_pretrained(tmp_path)
    assert not (tmp_path / DOMAIN).exists()  # a retrained model must not inherit it


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"statistics": None},
        {"statistics": {"mean": [1e300], "axes": [[1]], "spread": [1], "rest": 1, "start": 0, "scale": 1}},
        {"features": {"mean": [1, 2], "axes": [[1]], "spread": [1], "rest": 1, "start": 0, "scale": 1}},
        {"features": {"mean": [1], "axes": [[1]], "spread": [0], "rest": 1, "start": 0, "scale": 1}},
    ],
)
def test_a_domain_that_is_no_domain_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / DOMAIN
    path.write_text(json.dumps({**json.loads(known(Toy()).domain.to_json()), **change}))
    with pytest.raises(WeightsError, match="get the file again"):
        read(path)


def pale(seed: int) -> np.ndarray:
    """``ground`` in a little colour."""
    rng, grey = np.random.default_rng([4, seed]), ground(seed).astype(float)
    tint = np.kron(rng.normal(0, 2, (8, 8)), np.ones((6, 6))) + rng.uniform(4, 9)
    return np.clip(np.stack([grey + tint, grey, grey - tint], -1), 0, 255).astype(np.uint8)


def test_no_colour_at_all_is_told_from_little_colour() -> None:
    """A grey picture is a stranger among pale ones in colour, however pale they are."""
    model = Toy()
    model.domain = Domain.of(model.measured(media.read(pale(seed)) for seed in range(60)))
    assert not any(model.predict(pale(1000 + seed)).unlike for seed in range(10))
    found = model.predict(ground(1000))
    assert found.unlike
    assert found.domain.reason == "colour"


def test_a_slight_tint_makes_a_grey_image_no_stranger() -> None:
    model = known(Toy())
    assert "colours" not in model.domain.clouds
    assert not any(model.predict(ground(1000 + k)[..., None] + np.array([2, 0, 0], np.uint8)).unlike for k in range(10))


def test_a_domain_that_was_made_before_colours_were_measured_still_serves(tmp_path: Path) -> None:
    model, path = Toy(), tmp_path / DOMAIN
    record = json.loads(Domain.of(model.measured(media.read(pale(seed)) for seed in range(60))).to_json())
    del record["colours"]
    path.write_text(json.dumps(record))
    model.domain = read(path)
    assert not model.predict(pale(1000)).unlike
    assert model.predict(ground(5, 0.15)).unlike


def many_looks(seed: int) -> np.ndarray:
    """Speckle on ground of any level and steepness: a kind so wide that most pictures lie within its cloud."""
    rng = np.random.default_rng([9, seed])
    slope = np.kron(rng.normal(0, rng.uniform(0, 0.4), (4, 4)), np.ones((24, 24)))
    speckle = rng.gamma(rng.choice([1, 2, 4]), 1.0, (96, 96))
    grey = (rng.uniform(0.1, 0.9) + slope) * speckle / speckle.mean()
    return (255 * np.clip(grey, 0, 1)).astype(np.uint8)


def test_a_kind_of_many_looks_is_told_by_how_its_details_are_made(tmp_path: Path) -> None:
    """Blurred, it has the levels of the kind and none of its speckle."""
    model = Toy()
    measured = model.measured(media.read(many_looks(seed)) for seed in range(240))
    model.domain = Domain.of(measured, strangers())
    without = Domain.of(measured)
    assert without.contrast is None
    soft = [np.asarray(Image.fromarray(many_looks(2000 + k)).resize((24, 24)).resize((96, 96))) for k in range(12)]
    found = [model.measured([media.read(one)]) for one in (*soft, *(stranger(9000 + k) for k in range(30)))]
    caught, before = (sum(domain.judge(one).unlike for one in found) for domain in (model.domain, without))
    assert caught >= max(before + 4, 36)
    assert not any(model.predict(many_looks(1000 + seed)).unlike for seed in range(40))
    assert Domain.of({name: rows[:100] for name, rows in measured.items()}, strangers()).contrast is None
    (tmp_path / DOMAIN).write_text(model.domain.to_json())
    stored = read(tmp_path / DOMAIN)
    assert [stored.judge(one) for one in found] == [model.domain.judge(one) for one in found]
    damaged = json.loads(model.domain.to_json())
    damaged["contrast"]["form"] = damaged["contrast"]["form"][:-1]
    (tmp_path / DOMAIN).write_text(json.dumps(damaged))
    with pytest.raises(WeightsError, match="its shapes don't fit"):
        read(tmp_path / DOMAIN)


def test_a_contrast_is_the_difference_of_two_distances() -> None:
    rng = np.random.default_rng(3)
    kind, others = rng.normal(size=(4000, 3)) * 3, rng.normal(size=(3000, 3)) * 0.3
    found = calibrated(lambda part: Contrast.of(part, others), kind)
    new = rng.normal(size=(40_000, 3)) * 3
    assert float((found.farther(new) < SHARE).mean()) < 0.0015
    inside = np.zeros((1, 3))  # amidst the kind, and of the others nine times out of ten
    assert Cloud.calibrated(kind, 0.0).farther(inside)[0] == pytest.approx(0.1)
    assert found.distance(inside)[0] > np.quantile(found.distance(new), 0.98)
    z = 3 * np.arcsinh((kind - found.median) / found.unit / 3), 3 * np.arcsinh((others - found.median) / found.unit / 3)
    point = 3 * np.arcsinh((new[:5] - found.median) / found.unit / 3)
    first, second = (
        np.einsum("ij,jk,ik->i", point - one.mean(0), np.linalg.inv(np.cov(one.T)), point - one.mean(0)) for one in z
    )
    np.testing.assert_allclose(found.distance(new[:5]), (first - second) / 3, rtol=0.1, atol=0.5)


def test_bands_tell_noise_by_what_is_known_of_it() -> None:
    """White normal noise: details of equal spread at every direction, half of it at each coarser scale, unrelated."""
    noise = np.clip(128 + 20 * np.random.default_rng(0).standard_normal((64, 64)), 0, 255).astype(np.uint8)
    found = bands(media.read(noise))
    assert len(found) == BANDS
    assert found[[0, 2, 4]] == pytest.approx(np.log(20 / 255 + 0.003), abs=0.08)
    assert found[20] == pytest.approx(np.log(10 / 255 + 0.003), abs=0.12)
    assert found[1] / 3 == pytest.approx(np.log(np.sqrt(2 / np.pi)), abs=0.03)
    assert np.abs(found[6:17]).max() < 0.25
    assert np.ptp(found[GREY_BANDS::4]) == 0  # no colour
    assert len(colours(media.read(noise))) == COLOURS


def test_what_is_measured_on_drawn_pictures_comes_with_the_package() -> None:
    stored = strangers()
    for name, of in MEASURED.items():
        assert len(stored[name]) == COUNT
        for seed in (0, 1, COUNT - 1):
            np.testing.assert_allclose(stored[name][seed], of(media.read(stranger(seed))), rtol=2e-3, atol=5e-3)
    names = looks(stored)
    assert names == ("statistics", "bands", "colours")
    assert together(stored, names).shape == (COUNT, len(MEASURES) + BANDS + COLOURS)
    assert together(stored, ("statistics", "bands", "fine")).shape == (COUNT, len(MEASURES) + 2 * GREY_BANDS)


def test_too_few_images_say_nothing() -> None:
    assert known(Toy(), 19).domain is None


def test_statistics_do_not_hang_on_resolution() -> None:
    """The same picture at another size is the same picture."""
    array = np.asarray(media.read("phantom:fundus?seed=4").thumbnail(600))
    large = array.repeat(2, 0).repeat(2, 1)
    away = np.abs(statistics(media.read(array)) - statistics(media.read(large)))
    assert len(away) == len(MEASURES)
    assert away.max() < 0.5


def test_of_several_images_the_odd_ones_are_named() -> None:
    model = known(Toy())
    pictures = [media.read(ground(1000 + k, 0.1 if k == 2 else 0.6)) for k in range(5)]
    verdict = model.domain.judge(model.measured(pictures))
    assert verdict.odd == (3,)
    assert verdict.count == 5
    assert verdict.sentence().startswith("3 of 5 images: unlike")


def test_a_temperature_makes_the_likely_likelier() -> None:
    """Logits three times too large are divided by three; n cases that are all right don't make a model certain."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([rng.choice(3, p=row) for row in p])
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert fitted(sharp, truth) == pytest.approx(3, rel=0.06)
    sure = np.tile([0.999, 0.001], (48, 1))
    kept = tempered({"a": 0.999, "b": 0.001}, fitted(sure, np.zeros(48, int)))
    assert kept["a"] == pytest.approx(49 / 50, abs=1e-3)


def test_tempered_probabilities_are_those_of_divided_logits() -> None:
    logits = np.array([2.0, -1.0, 0.5])
    p, want = (np.exp(x) / np.exp(x).sum() for x in (logits, logits / 2.5))
    found = tempered(dict(zip("abc", p.tolist(), strict=True)), 2.5)
    np.testing.assert_allclose([found[name] for name in "abc"], want, rtol=1e-6)
    model = Toy()
    model.temperature = 2.0
    assert model.predict(ground(1)).probabilities["a"] == pytest.approx(0.75)  # 3 : 1 from 9 : 1


def test_where_there_is_nothing_to_look_at_there_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    model = known(Toy())
    monkeypatch.setattr(Toy, "_pictures", lambda self, case: [])
    assert model.predict(ground(1)).domain is None
