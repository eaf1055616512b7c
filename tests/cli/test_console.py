"""Consoles, streams, names and environments as they come: no command falls over because of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.cli import main

LONG = "a" * 300


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "глаз😀é.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object) -> tuple[int, str, str]:
    """The command line on a console of an encoding: exit code, what stands on it, and what on its error stream."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    monkeypatch.undo()
    return int(stop.value.code or 0), *texts


@pytest.mark.parametrize("encoding", ["cp1251", "cp932", "ascii", "latin-1", "utf-8"])
def test_a_console_of_any_encoding_is_written_to(monkeypatch, picture: Path, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "out"
    code, text, errors = run(monkeypatch, encoding, "predict", "map-vessel", picture, "--out", out, "--device", "cpu")
    assert code == 0, errors
    assert ("глаз" in text) == (encoding in ("cp1251", "cp932", "utf-8"))
    assert (out / f"{picture.stem}_mask.png").is_file()
    code, text, _ = run(monkeypatch, encoding, "predict", "map-vessel", picture, "--out", out, "--json", "--no-figure")
    assert code == 0
    assert json.loads(text)["source"] == str(picture)
    code, _, errors = run(monkeypatch, encoding, "predict", "map-vessel", picture.with_name("нет😀.png"))
    assert code == 2
    assert errors.startswith("zoo: can't read ")
    for command in (["list"], ["list", "--json"], ["info", "map-vessel"], ["samples"], ["--help"]):
        assert run(monkeypatch, encoding, *command)[0] == 0


def test_a_name_that_is_no_text_is_read_and_written(monkeypatch, picture: Path, tmp_path: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/e\xff\xfeye.png"))
    try:
        picture.rename(strange)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    out = tmp_path / "out"
    code, text, errors = run(monkeypatch, "utf-8", "predict", "map-vessel", strange, "--out", out, "--json")
    assert code == 0, errors
    assert json.loads(text)["kind"] == "segmentation"
    assert len(list(out.iterdir())) == 4  # JSON, figure, mask, table


def test_a_full_disk_behind_the_output_is_one_sentence() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    for command in ("list", "list --json", "info map-vessel", "samples", "--version"):
        done = subprocess.run(
            f"{sys.executable} -m zoo {command} > /dev/full", shell=True, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 2
        assert done.stderr == "zoo: can't write the output: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_stop_nothing(closed: str, tmp_path: Path) -> None:
    done = subprocess.run(f"{sys.executable} -m zoo list {closed}", shell=True, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    done = subprocess.run(f"{sys.executable} -m zoo info nope {closed}", shell=True, capture_output=True, text=True)
    assert done.returncode == 2


def test_no_streams_at_all(monkeypatch, picture: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as stop:
        main(["predict", "map-vessel", str(picture), "--out", str(tmp_path / "out"), "--device", "cpu"])
    monkeypatch.undo()
    assert not stop.value.code
    assert len(list((tmp_path / "out").iterdir())) == 4  # JSON, figure, mask, table


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "map-vessel", LONG], ["predict", "map-vessel", "PICTURE", "--weights", LONG],
        ["predict", "map-vessel", "PICTURE", "--out", LONG], ["predict", "map-vessel", f"{LONG}/*.png"],
        ["predict", "map-vessel", "PICTURE", "--with", f"fov_mask={LONG}"],
        ["predict", "map-vessel", "LOOP"], ["predict", "map-vessel", "PICTURE", "--weights", "LOOP"],
        ["predict", "map-vessel", "PICTURE", "--out", "LOOP/x"],
        ["predict", "map-vessel", ""], ["predict", "map-vessel", "  "],
        ["predict", "meldd", ""], ["predict", "map-vessel", "PICTURE", ""],
        ["predict", "map-vessel", "~no-such-user-here/a.png"],
        ["predict", "map-vessel", "PICTURE", "--weights", "~no-such-user-here/a"],
        ["predict", "map-vessel", "PICTURE", "--with", "fov_mask=~no-such-user-here/a.png"],
        ["data", "check", f"pairs:{LONG}"], ["data", "check", f"csv:{LONG}"], ["data", "check", "pairs:LOOP"],
        ["data", "check", "folder:~no-such-user-here"], ["data", "check", "msd:~no-such-user-here"],
        ["train", "map-vessel", "--data", "pairs:~no-such-user-here"], ["train", "map-vessel", "--data", LONG],
        ["train", "map-vessel", "--data", "phantom:fundus?n=4", "--out", LONG],
        ["evaluate", "map-vessel", "--data", "csv:~no-such-user-here"],
        ["new", "spot-finder", "--folder", "~no-such-user-here"], ["new", "spot-finder", "--folder", LONG],
        ["new", LONG], ["info", LONG], ["push", LONG, "org/x"], ["push", "~no-such-user-here/x", "org/x"],
        ["reproduce", "map-vessel", "--report", LONG], ["check", LONG], ["cache", "rm", LONG], ["uninstall", LONG],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)  # fmt: skip
def test_names_beyond_the_limit_homes_that_are_none_and_loops_are_one_sentence(
    zoo_cli, picture: Path, tmp_path: Path, monkeypatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LOOP").symlink_to(tmp_path / "LOOP")
    before = sorted(tmp_path.rglob("*"))
    refused = zoo_cli(*[a.replace("PICTURE", str(picture)) for a in arguments])
    if arguments[-1] == "" and "PICTURE" in arguments:  # the other input is good
        assert refused.code == 2
        assert "an input is empty" in refused.err
        return
    assert len(refused.refused) < 700
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
@pytest.mark.parametrize("value", ["soon", "-1", "0", "1e3", "9" * 50])
def test_a_timeout_that_is_none_is_named(zoo_cli, monkeypatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert zoo_cli("list").refused.startswith(f"zoo: {name} is '{value[:40]}', which is no number of seconds")


@pytest.mark.parametrize("proxy", ["://bad", "foo bar", "socks9://x", "http://[::1", "http://x:port", "\u0001"])
def test_a_malformed_proxy_is_one_sentence(tmp_path: Path, proxy: str) -> None:
    environment = {
        **os.environ, "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "ALL_PROXY": proxy, "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "", "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "pull", "org/x"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("zoo: hf://org/x ")
    assert len(done.stderr.splitlines()) == 1


def test_brackets_in_the_name_of_a_folder_are_part_of_it(zoo_cli, picture: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[2023] scans").mkdir()
    picture.rename(tmp_path / "[2023] scans" / "a.png")
    ran = zoo_cli("predict", "map-vessel", "[2023] scans/*.png", "--json", "--no-figure", "--device", "cpu")
    assert json.loads(ran.out)["source"] == "[2023] scans/a.png"


def test_the_same_file_twice_is_one_prediction(zoo_cli, picture: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture.rename("a.png")
    (tmp_path / "sub").mkdir()
    names = ["a.png", "./a.png", str(tmp_path / "a.png"), "sub/../a.png", "*.png"]
    ran = zoo_cli("predict", "map-vessel", *names, "--json", "--no-figure", "--device", "cpu")
    assert len(ran.out.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("cause", "code", "said"),
    [
        (
            KeyboardInterrupt("stopped after step 3 of 10 (training); resume it from runs/a"),
            130,
            "zoo: stopped after s",
        ),
        (KeyboardInterrupt(), 130, "zoo: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_a_command_that_is_stopped_says_where(zoo_cli, monkeypatch, cause: BaseException, code: int, said: str) -> None:
    def stopped(*arguments, **options):
        raise cause

    monkeypatch.setattr("zoo.training.train", stopped)
    ran = zoo_cli("train", "map-vessel", "--data", "phantom:fundus?n=4")
    assert ran.code == code
    assert ran.err.startswith(said)
    assert bool(ran.err) == bool(said)
    assert "Traceback" not in ran.err
