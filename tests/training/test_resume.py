"""Training processes that are really killed, and what they come to when they go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run_script(name: str, *arguments: object, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, str(HERE / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_kill_at_any_disk_call_leads_to_the_same_weights_and_metrics(tmp_path):
    """SIGKILL at every fsync, rename, replace, removal and (half-done) tensor write; another kill while resuming."""
    found = json.loads(run_script("kill_driver.py", "calls", tmp_path).splitlines()[-1])
    assert found["calls"] > 40
    assert found["statuses"].count(-9) > found["calls"]
    assert set(found["digests"]) == {found["reference"]}


@pytest.mark.slow
def test_kills_at_random_times_lead_to_the_same_weights_and_metrics(tmp_path):
    found = json.loads(run_script("kill_driver.py", "times", tmp_path).splitlines()[-1])
    assert found["kills"] >= 4
    assert set(found["digests"]) == {found["reference"]}


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(tmp_path):
    """Under ``accelerate launch`` with two CPU processes, equal up to the order of sums, also after a resume."""
    # --multi_gpu stands for torchrun; the runs themselves ask for the CPU (--cpu would need an MPI)
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    two = json.loads(run_script("distributed.py", tmp_path / "two", launcher=launcher).splitlines()[-1])
    one = json.loads(run_script("distributed.py", tmp_path / "one").splitlines()[-1])
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["whole"] == pytest.approx(one["whole"], rel=1e-4, abs=1e-6)
    assert one["whole"] != pytest.approx(one["start"], rel=1e-2)
    assert two["resumed"] == two["whole"]
    assert one["resumed"] == one["whole"]
