"""A kernel is believed on a GPU once it answered there as its reference does. The CPU stands in for the GPU."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zoo.ops import _library, _trust, cosine_topk, self_tests

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(_library._CPU is None, reason="the operators are not compiled")


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A device of this name, which nobody has met yet."""
    known = {"device": "Stand-in, 9.0", "driver": "1", "build": "b", "torch": torch.__version__}
    monkeypatch.setattr(_trust, "GUARDED", frozenset({"cpu"}))
    monkeypatch.setattr(_trust, "identity", lambda device, build: dict(known))
    monkeypatch.setattr(_library, "_TRUSTED", {})
    monkeypatch.setenv("ZOO_OPS_CACHE", str(tmp_path / "memory"))
    return known


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], torch.Tensor]], list[int]]:
    """Gives the check of ``cosine_topk`` another answer by the kernel; the list counts how often that was asked."""

    def replace(answer: Callable[[], torch.Tensor]) -> list[int]:
        asked: list[int] = []

        def check(device: torch.device) -> tuple[torch.Tensor, ...]:
            if not _library._BY_KERNEL.get():
                return (torch.ones(3),)
            asked.append(1)
            return (answer(),)

        monkeypatch.setitem(_library._CHECKS, "cosine_topk", check)
        return asked

    return replace


def fails() -> torch.Tensor:
    raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be reported later")


def call() -> tuple[torch.Tensor, torch.Tensor]:
    return cosine_topk(torch.eye(3), torch.eye(3), 1)


@pytest.mark.parametrize("name", sorted(_library._CHECKS))
def test_kernels_and_references_agree_on_the_case_of_the_check(name: str):
    """On the CPU: so that a difference on a GPU is the GPU's."""
    finding = _library.self_test(name, CPU)
    assert finding.ok, finding
    assert finding.difference < 1e-2
    assert finding.milliseconds > 0


def test_checks_leave_the_callers_state_alone(facts):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(finding.ok for finding in self_tests(CPU).values())
    assert torch.rand(3).equal(expected)


def test_the_first_call_looks_and_later_ones_and_processes_remember(facts, wrong, monkeypatch):
    asked = wrong(lambda: torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()
        call()
        assert asked == [1]
        monkeypatch.setattr(_library, "_TRUSTED", {})  # another process
        call()
        assert asked == [1]
        facts["driver"] = "2"
        monkeypatch.setattr(_library, "_TRUSTED", {})
        call()
        assert asked == [1, 1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: torch.tensor([1.0, 1.0, 1.1]), r"its kernel answers otherwise than its reference, by 0\.1 of the la"),
        (lambda: torch.tensor([1.0, 1.0, torch.nan]), r"its kernel answers otherwise than its reference \(torch"),
        (lambda: torch.ones(4), r"its kernel answers otherwise than its reference \(torch"),
        (fails, r"its kernel fails \(CUDA error: no kernel image is available"),
    ],
)
def test_a_kernel_that_is_wrong_is_told_of_once_and_the_reference_runs(facts, wrong, answer, said, monkeypatch):
    asked = wrong(answer)
    with pytest.warns(RuntimeWarning, match=f"^cosine_topk on Stand-in, 9.0: {said}") as told:
        similarity, _ = call()
    assert similarity.tolist() == [[1.0]] * 3
    assert "so the reference runs instead; look at zoo doctor --gpu" in str(told[0].message)
    assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _library.use_compiled("cosine_topk", CPU)
        assert _library.use_compiled("nearest_neighbors", CPU)  # the others are good
    monkeypatch.setattr(_library, "_TRUSTED", {})
    with pytest.warns(RuntimeWarning, match="cosine_topk on Stand-in"):  # remembered, and told again
        call()
    assert asked == [1]


def test_where_kernels_are_asked_for_a_wrong_one_is_an_error(facts, wrong, monkeypatch):
    wrong(fails)
    monkeypatch.setattr(_library, "_MODE", "compiled")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"ZOO_OPS=compiled, but cosine_topk on Stand-in, 9\.0: its kernel fai"):
            call()


def test_a_lack_of_memory_decides_nothing(facts, wrong):
    def full() -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    asked = wrong(full)
    call()
    call()
    assert asked == [1, 1]


def test_nothing_is_compared_while_a_graph_is_made(facts, wrong):
    from torch._subclasses.fake_tensor import FakeTensorMode

    asked = wrong(fails)
    with FakeTensorMode():
        call()
    torch.compile(lambda x: cosine_topk(x, x, 1), backend="eager")(torch.eye(3))
    assert asked == []


@pytest.mark.parametrize("content", ["", "[]", '{"operators": 3}', "null"])
def test_a_damaged_memory_is_none(facts, wrong, monkeypatch, content: str):
    asked = wrong(lambda: torch.ones(3))
    call()
    (path,) = Path(_trust.os.environ["ZOO_OPS_CACHE"]).iterdir()
    assert json.loads(path.read_text())["operators"]["cosine_topk"]["ok"]
    path.write_text(content)
    monkeypatch.setattr(_library, "_TRUSTED", {})
    call()
    assert asked == [1, 1]


@pytest.mark.parametrize("place", ["off", "/proc/nowhere"])
def test_without_a_place_to_remember_it_works_all_the_same(facts, wrong, monkeypatch, place: str):
    monkeypatch.setenv("ZOO_OPS_CACHE", place)
    asked = wrong(lambda: torch.ones(3))
    call()
    call()
    assert asked == [1]


def test_self_tests_look_anew_and_mend_what_was_remembered(facts, wrong, monkeypatch):
    wrong(fails)
    with pytest.warns(RuntimeWarning):
        call()
    monkeypatch.setitem(_library._CHECKS, "cosine_topk", lambda device: (torch.ones(2),))
    found = self_tests(CPU)
    kernels = {name for name, devices in _library._KERNELS.items() if "cpu" in devices}
    assert set(found) == kernels | {name for name, (_, here) in _library._WAYS.items() if here(CPU)}
    assert found["cosine_topk"].ok
    assert _library.use_compiled("cosine_topk", CPU)


@pytest.mark.gpu
def test_every_kernel_is_good_on_this_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_OPS_CACHE", str(tmp_path))
    found = self_tests(torch.device("cuda", 0))
    assert found
    assert [finding for finding in found.values() if not finding.ok] == []


def test_doctor_says_in_one_sentence_that_there_is_no_gpu(zoo_cli, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = zoo_cli("doctor", "--gpu").refused.removeprefix("zoo: ")
    assert refused == "there is no GPU here that torch can use, so no kernel was looked at; zoo doctor tells more"


def test_doctor_prints_what_came_of_each_kernel(zoo_cli, facts, wrong, monkeypatch):
    """The CPU stands in for two GPUs."""
    from zoo import ops
    from zoo.cli import doctor

    found = self_tests(CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Stand-in")
    monkeypatch.setattr(ops, "self_tests", lambda device: found)
    monkeypatch.setattr(ops, "status", lambda: _library.Status("auto", {}, None, ()))
    ran = zoo_cli("doctor", "--gpu")
    assert ran.code == 0
    assert ran.out.count("good") == 2 * len(found)
    assert "1: Stand-in" in ran.out
    found["icp"] = _trust.Finding("icp", False, "its kernel fails (no kernel image)")
    ran = zoo_cli("doctor", "--gpu", "--json")
    assert ran.code == 1
    assert [row["kernel"] for row in json.loads(ran.out) if row["operator"] == "icp"] == [found["icp"].why] * 2
    assert len(doctor.comparisons()) == 2 * len(found)
