"""``zoo export``: files that run without the zoo give what the network gives, and say how to feed them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo import export, media, ops, registry
from zoo.errors import OptionError
from zoo.export import files
from zoo.extras import DISTRIBUTION, missing

if missing("export"):
    pytest.skip("needs the extra export", allow_module_level=True)

import onnx
import onnxruntime

pytestmark = pytest.mark.wrong_types  # symbols stand in for sizes while a network is traced

OURS = [entry.name for entry in registry.entries() if entry.distribution == DISTRIBUTION and entry.plugin]
NOT = {"continual-gen": "chosen by distances to clusters", "sampot": "climbing a score along gradients"}
QUICK = ("disbelieve", "fed-mas", "local-global-prototypes", "meldd")


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in OURS])
@pytest.mark.parametrize("form", export.FORMATS)
def test_every_model_is_exported_within_1e_4_or_says_why_not(name: str, form: str, tmp_path: Path) -> None:
    out = tmp_path / "file"
    if name in NOT:
        with pytest.raises(OptionError, match=rf"^{name} can't be exported: .*{NOT[name]}"):
            export.export(name, out, format=form)
        assert list(tmp_path.iterdir()) == []
        return
    written = export.export(name, out, format=form)
    assert written.difference <= 1e-4
    model = zoo.load(name, device="cpu")
    made = export.exportable(model)
    if form == "onnx":
        proto = onnx.load(out)
        [found] = [json.loads(prop.value) for prop in proto.metadata_props if prop.key == "zoo"]
        domains = {node.domain for node in proto.graph.node}
        assert "zoo" not in domains  # whoever runs it has no operators of ours
        results = files.run_onnx(out, made.inputs)
    else:
        extra = {"zoo.json": ""}
        program = torch.export.load(out, extra_files=extra)
        found = json.loads(extra["zoo.json"])
        assert not [node for node in program.graph.nodes if str(node.target).startswith("zoo.")]
        results = files.run_program(out, made.inputs)
    assert found == json.loads(json.dumps(written.metadata))
    assert found["model"] == name
    assert found["disclaimer"] == model.provenance.disclaimer
    assert list(found["inputs"]) == list(made.inputs)
    assert found["preprocessing"]
    assert not any("{" in step for step in found["preprocessing"])
    # the parity again, by the tests' own comparison
    with torch.no_grad():
        own = [one for one in torch.utils._pytree.tree_leaves(made.network(*made.inputs.values())) if one is not None]
    assert len(own) == len(results) == len(found["outputs"])
    for mine, theirs in zip(own, results, strict=True):
        np.testing.assert_allclose(theirs, mine.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_takes_batches_of_any_size(batch: int, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    export.export("disbelieve", out)
    model = zoo.load("disbelieve", device="cpu")
    x = torch.rand(batch, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        expected = model(x)
    np.testing.assert_allclose(run(out, image=x.numpy())[0], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_lesions_of_a_patient_may_be_any_number(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    export.export("meldd", out)
    model = zoo.load("meldd", device="cpu")
    for count in (1, 5):
        x = torch.rand(count, 3, model.config.image_size, model.config.image_size)
        with torch.no_grad():
            expected = model.patient(x)
        np.testing.assert_allclose(run(out, images=x.numpy())[0], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_who_follows_the_metadata_gets_the_prediction(tmp_path: Path) -> None:
    """disbelieve's steps with Pillow and NumPy alone."""
    from PIL import Image

    out = tmp_path / "net.onnx"
    facts = export.export("disbelieve", out).metadata
    picture = media.read("phantom:skin-lesion?seed=5").rgb()
    pixels = Image.fromarray((picture * 255).round().astype(np.uint8))
    side = facts["inputs"]["image"]["shape"][-1]
    x = np.asarray(pixels.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    mean, std = facts["facts"]["mean"] or [0.5] * 3, facts["facts"]["std"] or [0.25] * 3
    x = ((x - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)[None]
    logits = run(out, image=x.astype(np.float32))[0][0] / (facts["temperature"] or 1)
    p = np.exp(logits - logits.max())
    predicted = zoo.predict("disbelieve", "phantom:skin-lesion?seed=5", device="cpu")[0]
    found = dict(zip(facts["labels"], p / p.sum(), strict=True))
    assert {k: pytest.approx(v, abs=2e-2) for k, v in predicted.probabilities.items()} == found


# ---- the operators --------------------------------------------------------------------------------------------------


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def cells(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


OPERATORS = {
    "prototype_similarity": (lambda x, p: ops.prototype_similarity(x, p), (cells(2, 9, 5), cells(4, 5))),
    "cosine_topk": (lambda q, bank: ops.cosine_topk(q, bank, 3), (cells(4, 6), cells(11, 6))),
    "masked_attention": (
        lambda q, k, v, n: ops.masked_attention(q, k, v, lengths=n),
        (cells(2, 2, 7, 4), cells(2, 2, 7, 4), cells(2, 2, 7, 4), torch.tensor([7, 3])),
    ),
    "nearest_neighbors": (lambda a, b: tuple(ops.nearest_neighbors(a, b, 2)), (cells(8, 3), cells(15, 3))),
    "cosine_filter": (
        lambda g: ops.cosine_filter(g, clip_norm=1.0, threshold=0.0, noise=torch.zeros(6), quantile=None)[0],
        (cells(5, 6) - 0.5,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_go_into_onnx_by_their_reference(name: str, tmp_path: Path) -> None:
    function, inputs = OPERATORS[name]
    named = {f"x{i}": value for i, value in enumerate(inputs)}
    expected = [one for one in torch.utils._pytree.tree_leaves(function(*inputs))]
    outputs = {f"y{i}": "" for i in range(len(expected))}
    made = export.Exportable(Call(function), named, outputs, preprocessing=[])
    program = export.traced(made, name)
    assert not [node for node in program.graph.nodes if str(node.target).startswith("zoo.")]
    path = tmp_path / "op.onnx"
    files.write_onnx(program, made, {"disclaimer": "", "model": name}, path)
    for mine, theirs in zip(expected, files.run_onnx(path, named), strict=True):
        np.testing.assert_allclose(theirs, mine.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [2, 3])
def test_icp_is_no_graph(d: int) -> None:
    """Its pairs and the number of its steps depend on the points, and ONNX has no eigenvectors."""
    made = export.Exportable(
        Call(lambda a, b: tuple(ops.icp(a, b))),
        {"x": cells(8, d), "y": cells(15, d)},
        {name: "" for name in ops.Registration._fields},
        preprocessing=[],
    )
    with pytest.raises(OptionError, match=r"icp can't be exported: torch\.export refuses its network .*data-dependent"):
        export.traced(made, "icp")


def test_every_operator_is_exported_or_known_not_to_be() -> None:
    functions = {name for name in ops.__all__ if name[0].islower()} - {"by_reference", "self_tests", "status", "ways"}
    assert functions == {*OPERATORS, "icp"}


def test_the_reference_is_in_use_only_for_a_while() -> None:
    from zoo.ops._library import use_compiled

    before = use_compiled("cosine_topk", torch.device("cpu"))
    with ops.by_reference():
        assert not use_compiled("cosine_topk", torch.device("cpu"))
    assert use_compiled("cosine_topk", torch.device("cpu")) is before


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_what_can_not_be_exported_is_one_sentence_and_leaves_nothing(zoo_cli, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "f.onnx"
    assert (
        "sampot can't be exported: its answer is found by climbing" in zoo_cli("export", "sampot", "--out", out).refused
    )
    assert "there is no format 'onyx'; did you mean 'onnx'?" in zoo_cli("export", "fed-mas", "--format", "onyx").refused
    assert "is a folder; name a file" in zoo_cli("export", "fed-mas", "--out", tmp_path).refused
    assert "there is no model" in zoo_cli("export", "nope", "--out", out).refused
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    assert "differ from the network's" in zoo_cli("export", "fed-mas", "--out", out).refused
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'medimg-zoo[export]'" in zoo_cli("export", "fed-mas", "--out", out).refused


def test_a_plugin_that_says_nothing_can_not_be_exported(install_plugin, zoo_cli) -> None:
    from pathlib import Path as P

    toy = (P(__file__).parent / "hub" / "conftest.py").read_text().partition('TOY = """')[2].partition('"""')[0]
    install_plugin("toy-zoo", toy)
    assert "toy-model can't be exported: its plugin has no export.json" in zoo_cli("export", "toy-model").refused


def test_the_command_tells_what_to_do_before_the_network(zoo_cli, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    ran = zoo_cli("export", "fed-mas", "--out", out)
    assert ran.out.startswith(f"wrote {out}; its outputs differ from the network's by ")
    assert "minus mean, divided by std" in ran.out
    metadata = json.loads(zoo_cli("export", "fed-mas", "--out", out, "--json").out)
    assert metadata["weights"] == "demo"
    assert metadata["inputs"]["image"]["shape"][0] == "batch"
