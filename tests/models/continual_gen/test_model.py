"""Who owns which unit, what is forgotten (nothing), and which subnetwork answers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.continual_gen.conftest import TINY, Stream, domain
from zoo import loading, weights
from zoo.data.case import Case
from zoo.data.images import over_images
from zoo.data.shifts import FOREIGN, LOOKS, draw_lesion
from zoo.errors import DataError, OptionError, WeightsError
from zoo.models.continual_gen.culpability import kept
from zoo.models.continual_gen.model import BEYOND, FREE, UNTAUGHT, ContinualGen, ContinualGenConfig
from zoo.models.continual_gen.training import compare, features, learn_domain
from zoo.training import Run

Z = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def lesion(look: str, seed: int = 0) -> np.ndarray:
    image = draw_lesion(LOOKS.get(look, FOREIGN), 1, np.random.default_rng(seed))
    return np.round(255 * image).astype(np.uint8)


def cases(look: str, n: int = 30) -> list[Case]:
    rng = np.random.default_rng(5)
    kinds = ("plain", "stripes", "checker")
    views = [np.round(255 * draw_lesion(LOOKS[look], i % 3, rng)).astype(np.uint8) for i in range(n)]
    return [Case(view, f"{look} {i}", label=kinds[i % 3]) for i, view in enumerate(views)]


def stranger_to_all(model: ContinualGen) -> ContinualGen:
    """A copy to which whatever comes is new: how near two domains come hangs on how a processor rounds."""
    model = copy.deepcopy(model)
    for t in range(len(model.subnetworks)):
        for one in model.subnetwork(t).ensembles:
            one.config, one.selfess = replace(one.config, floor=0.0), torch.tensor(0.0)
    return model


# ---- units ---------------------------------------------------------------------------------------------------------


def test_five_subnetworks_of_a_fifth_fit_and_six_of_fifteen_percent():
    assert [kept(width, 0.8) for width in (1, 4, 60, 64, 2048)] == [1, 1, 12, 12, 409]
    assert 60 // kept(60, 0.8) == 5
    assert 60 // kept(60, 0.85) == 6


def test_every_unit_has_one_owner_and_every_subnetwork_a_fifth(learned: Stream):
    model = learned.model
    for space, width in model.spaces.items():
        counts = torch.bincount(model.owner(space) + 1, minlength=4).tolist()
        assert counts[1:] == [12] * 3
        assert sum(counts) == width
    assert model.room == 2
    assert model.part(0)(Z).shape == (6, 12)


def test_learning_a_domain_leaves_all_other_subnetworks_to_the_bit(learned: Stream):
    """Running statistics, momentum and weight decay are the usual leaks."""
    model = stranger_to_all(learned.model)
    parts = range(len(model.subnetworks))
    before = [model.subnetwork(t).head(model.part(t)(Z)).clone() for t in parts]
    with Run(seed=0, device="cpu", progress=False) as run:
        told = learn_domain(model, domain("grey"), TINY, run)
    assert told.action == "new"
    assert all(torch.equal(a, model.subnetwork(t).head(model.part(t)(Z))) for t, a in enumerate(before))
    with Run(seed=0, device="cpu", progress=False) as run:
        again = learn_domain(model, replace(domain("grey"), name="grey again"), TINY, run)
    assert (again.action, again.subnetwork) == ("updated", told.subnetwork)
    assert all(torch.equal(a, model.subnetwork(t).head(model.part(t)(Z))) for t, a in enumerate(before))
    assert model.config.learned[-1].domains == ("grey", "grey again")
    assert len(model.subnetwork(told.subnetwork - 1).ensembles) == 2


def test_routing_sees_what_the_clusters_were_fitted_to(learned: Stream):
    """To the bit, after later domains were learned, and by the very path of a prediction."""
    model = learned.model
    for t, images in enumerate([one.train for one in learned.domains]):
        (one,) = model.subnetwork(t).ensembles
        fitted = one.distance(features(model, t, images))
        assert fitted.mean() == one.usual
        assert torch.equal(over_images(model, lambda x: model(x)[1], images, model.device)[:, t], fitted)


def test_without_a_free_unit_the_nearest_is_updated_and_the_decision_says_so(learned: Stream):
    model = stranger_to_all(learned.model)
    for space in model.spaces:
        model.owner(space)[model.owner(space) == FREE] = 99
    distances, _ = compare(model, domain("grey"))
    with Run(seed=0, device="cpu", progress=False) as run:
        told = learn_domain(model, domain("grey"), TINY, run)
    assert told.action == "forced"
    assert told.subnetwork == int(np.argmin(distances)) + 1
    assert "no unit was left" in told.sentence()


def test_an_update_replaces_the_clusters_where_the_paper_is_taken_literally(learned: Stream):
    model = copy.deepcopy(learned.model)
    model.config = replace(model.config, stats="replace", threshold="member")
    with Run(seed=0, device="cpu", progress=False) as run:
        told = learn_domain(model, replace(domain("brown"), name="again"), TINY, run)
    assert told.action == "updated"
    assert len(model.subnetwork(told.subnetwork - 1).ensembles) == 1
    assert len(model.config.learned[told.subnetwork - 1].domains) == 2


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_state_is_plain_data_with_capacity_and_decisions_and_no_image(learned: Stream):
    state = json.loads(json.dumps(learned.model.state(), allow_nan=False))
    assert [one["domains"] for one in state["subnetworks"]] == [["brown"], ["inverted"], ["blue"]]
    assert state["capacity"] == {
        "units": 180, "units_of_a_subnetwork": 36, "units_free": 72, "room_for_subnetworks": 2,
    }  # fmt: skip
    assert [len(one["ess"]) for one in state["decisions"]] == [0, 1, 2]
    assert sum(one["bytes_of_clusters"] for one in state["subnetworks"]) < 40_000
    shapes = [tuple(b.shape) for b in learned.model.buffers()]
    assert not any(48 in shape for shape in shapes), "something has a row for each training image"


def test_saved_and_loaded_it_routes_alike_and_stores_the_shared_network_once(learned: Stream, tmp_path):
    weights.save(learned.model, tmp_path, trained_on="a stream")
    back = loading.load_into(ContinualGen, str(tmp_path))
    assert back.state() == learned.model.state()
    a, b = (m(Z) for m in (learned.model, back))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    network = sum(p.numel() for p in back.network.parameters())
    stored = sum(v.numel() for k, v in back.state_dict().items() if k.startswith("network.") and "running" not in k)
    assert stored - 3 == network  # three counters of batches


def test_learn_takes_cases_of_an_unknown_domain(learned: Stream):
    model = copy.deepcopy(learned.model).eval()
    told = model.learn(cases("grey"), "a clinic", TINY, seed=1)
    assert (told.action, told.subnetwork, told.images) == ("new", 4, 24)
    assert model.state()["decisions"][-1]["domain"] == "a clinic"
    assert len(model.seen.cases) == 30
    assert model.provenance.trained_on.endswith(", then a clinic")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="a cluster needs at least 5"):
        model.learn(cases("grey", 3), "too few", TINY)
    with pytest.raises(DataError, match=r"'naevus'.*none of plain, stripes, checker"):
        model.learn([replace(one, label="naevus") for one in cases("grey")], "other labels", TINY)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


# ---- prediction ----------------------------------------------------------------------------------------------------


def test_most_images_go_to_the_subnetwork_of_their_domain(learned: Stream):
    right = 0
    for t, look in enumerate(("brown", "inverted", "blue"), start=1):
        found = [learned.model.predict(lesion(look, seed)) for seed in range(8)]
        right += sum(one.subnetwork == t for one in found)
        record = found[0].to_dict()
        assert record["domains_of_subnetwork"] == [look]
        assert len(record["ess"]) == 3
        assert np.argmin(record["ess"]) == record["subnetwork"] - 1
    assert right > 12  # of 24


def test_the_subnetwork_can_be_asked_for(learned: Stream):
    found = learned.model.predict(lesion("brown"), subnetwork=3)
    assert (found.subnetwork, found.asked) == (3, True)
    assert "3 was asked for" in found.panels()[-1].title
    with pytest.raises(OptionError, match="at most 3 with these weights"):
        learned.model.predict(lesion("brown"), subnetwork=4)


def test_the_flag_has_a_limit_of_its_own(learned: Stream):
    known = lesion("brown")
    assert not learned.model.predict(known, limit=20.0).out_of_domain
    flagged = learned.model.predict(known, limit=0.0)
    assert flagged.out_of_domain
    assert BEYOND in flagged.notes
    assert "out of all its domains" in flagged.summary()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert learned.model.predict(noise, limit=2.0).out_of_domain


def test_nothing_is_answered_before_anything_is_learned():
    empty = ContinualGen(ContinualGenConfig(backbone="small", image_size=16))
    assert empty.room == 5
    with pytest.raises(WeightsError, match="has learned no domain yet"):
        empty(Z)
    found = empty.predict(lesion("brown"))
    assert set(found.probabilities.values()) == {1 / 7}
    assert found.out_of_domain
    assert found.to_dict()["domains_of_subnetwork"] == []
    assert UNTAUGHT in found.notes
