"""The model card that a push writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import zoo
from zoo.errors import WeightsError
from zoo.publish import check_card, model_card


@pytest.fixture
def write_card(make_toy, toy: Path):
    folder = make_toy()

    def write(**files: dict) -> ModelCard:
        for name, content in files.items():
            path = (toy if name == "claim" else folder) / f"{name}.json"
            path.write_text(json.dumps(content))
        record = json.loads((folder / "config.json").read_text())
        plugin = zoo.info("toy-model")
        return ModelCard(model_card(plugin, record, folder, "org/toy"))

    return write


def test_the_metadata_is_what_the_hub_searches(write_card) -> None:
    data = write_card(evaluation={"data": "phantom:fundus?n=9", "metrics": [{"name": "AUROC", "mean": 0.875}]}).data
    assert data.library_name == "medimg-zoo"
    assert data.pipeline_tag == "image-classification"
    assert data.license == "other"
    assert {"medical-imaging", "toy-model", "photograph"} <= set(data.tags)
    assert data.datasets == ["phantom-fundus"]
    assert data.metrics == ["auroc"]
    [result] = data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == ("AUROC", 0.875, "phantom:fundus?n=9")


def test_a_stranger_finds_everything_on_the_page(write_card) -> None:
    text = write_card(
        run={"identity": {"recipe": {"lr": 0.001}}}, evaluation={"metrics": [{"name": "AUROC", "mean": 0.9}]}
    ).text
    for said in (
        "Tells bright from dark images.",
        "@inproceedings{lovelace2023toys,",
        "<https://doi.org/10.1000/toy>",
        "For research; not for clinical use.",
        "## Training data\n\n`phantom:fundus?n=4&seed=0`",
        "| `lr` | `0.001` |",
        "| AUROC | 0.9 |",
        'zoo.load("toy-model", weights="hf://org/toy")',
        "--weights hf://org/toy",
        "`toy-model` of toy-zoo 1.2",
    ):
        assert said in text, said


def test_what_was_not_measured_is_called_so(write_card) -> None:
    card = write_card()
    assert "Not measured." in card.text
    assert "## Claim\n\nNot run. `zoo reproduce toy-model`" in card.text
    assert card.data.eval_results is None
    assert card.data.metrics is None


@pytest.mark.parametrize("verdict", ["supported", "not supported", "inconclusive"])
def test_the_verdict_of_the_claim_is_printed_as_it_is(write_card, verdict: str) -> None:
    claim = {"verdict": verdict, "seeds": [0, 1, 2], "reason": "it differs", "claim": {"statement": "toys help"}}
    text = write_card(claim=claim).text
    assert f"Toys help.\n\nVerdict of `zoo reproduce toy-model` over 3 seeds: **{verdict}**. It differs." in text


def test_a_card_of_ones_own_is_published_as_it_stands(hub, client, make_toy) -> None:
    folder = make_toy()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    zoo.push(folder, "org/toy")
    assert hub.files("org/toy")["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"


@pytest.mark.parametrize(
    "text",
    ["# none\n", "---\n- a\n- b\n---\n", "---\na: [\n---\n", "---\nmodel-index:\n- name: x\n  results: 3\n---\n"],
)
def test_invalid_metadata_is_refused_before_anything_is_sent(hub, client, make_toy, text: str) -> None:
    folder = make_toy()
    (folder / "README.md").write_text(text)
    with pytest.raises(WeightsError, match=r"README.md has invalid metadata"):
        zoo.push(folder, "org/toy")
    assert hub.requests == []


def test_every_model_of_the_zoo_gets_a_valid_card(tmp_path: Path) -> None:
    for name in zoo.list_models():
        plugin = zoo.info(name)
        record = {"distribution": "medimg-zoo", "version": "0", "labels": list(plugin.labels), "trained_on": "phantoms"}
        text = model_card(plugin, record, tmp_path, f"org/{name}", demo=True)
        check_card(text, name)
        assert plugin.paper.bibtex() in text
