"""What is asked for over HTTP, and what is answered."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.serve.toy import png, wait


def test_models_are_listed_and_described(serving) -> None:
    with serving() as client:
        (card,) = client.get("/models").json()
        assert (card["name"], card["distribution"], card["status"]) == ("toy-model", "toy-zoo", "ok")
        assert client.get("/models", params={"task": "report"}).json() == []
        told = client.get("/models/toy_model").json()
        assert told["bibtex"].startswith("@inproceedings{")
        assert [item["name"] for item in told["inputs"]][:2] == ["image", "threshold"]
        assert {"input": "sample:retina"}.items() <= client.get("/samples").json()[0].items()
        assert {"status": "ok", "busy": 0, "places": 32}.items() <= client.get("/health").json().items()


def test_all_models_are_served_by_default(serving) -> None:
    with serving(models=()) as client:
        assert {card["name"] for card in client.get("/models").json()} >= {"toy-model", "map-vessel"}
        assert [card["name"] for card in client.get("/models", params={"modality": "ultrasound"}).json()] == [
            "cemb-sam"
        ]


def test_the_documentation_describes_each_models_form(serving) -> None:
    with serving() as client:
        paths = client.get("/openapi.json").json()["paths"]
        form = paths["/models/toy-model/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["required"] == ["image"]
        threshold = form["properties"]["threshold"]
        assert (threshold["type"], threshold["minimum"], threshold["default"]) == ("number", 0, 0.5)
        assert form["properties"]["mode"]["enum"] == ["fast", "exact"]
        assert form["properties"]["region"]["format"] == "binary"
        assert form["properties"]["box"]["type"] == "array"
        assert {"/models", "/jobs/{key}", "/models/toy-model/jobs"} <= set(paths)
        page = client.get("/docs").text
        assert "http://" not in page.replace("http://127.0.0.1", "")  # all of it is from this machine
        assert "https://" not in page


def test_a_prediction_is_that_of_the_library(serving, tmp_path: Path) -> None:
    (tmp_path / "eye.png").write_bytes(png())
    (here,) = zoo.predict("toy-model", str(tmp_path / "eye.png"), device="cpu", threshold=0.25)
    with serving() as client:
        answer = client.post(
            "/models/toy-model/predict", files={"image": ("eye.png", png())}, data={"threshold": "0.25"}
        )
    assert answer.status_code == 200
    (there,) = answer.json()["results"]
    assert there["summary"] == here.summary()
    assert there["source"] == "eye.png"
    here.inputs["image"]["source"] = "eye.png"
    expected = {key: value for key, value in here.to_dict().items() if key != "source"}
    assert {key: value for key, value in there.items() if key not in ("source", "summary")} == json.loads(
        json.dumps(expected)
    )


def test_results_come_as_figure_mask_or_all_files(serving) -> None:
    with serving() as client:
        ask = {"url": "/models/toy-model/predict", "files": {"image": ("eye.png", png())}}
        mask = client.post(**ask, params={"format": "mask"})
        assert mask.headers["content-type"] == "image/png"
        assert 'filename="eye_mask.png"' in mask.headers["content-disposition"]
        assert np.asarray(Image.open(io.BytesIO(mask.content))).shape == (48, 48)
        figure = client.post(**ask, params={"format": "figure"})
        assert Image.open(io.BytesIO(figure.content)).width > 200
        packed = client.post(**ask, params={"format": "zip"})
        with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
            assert sorted(archive.namelist()) == ["eye.json", "eye.png", "eye_mask.png"]
            assert json.loads(archive.read("eye.json"))["source"] == "eye.png"
        refused = client.post(**ask, params={"format": "hologram"})
        assert refused.status_code == 422
        assert "gives no hologram; choose one of" in refused.json()["detail"]


def test_several_inputs_and_one_that_fails(serving) -> None:
    files = [("image", ("a.png", png())), ("image", ("b.png", b"no picture")), ("image", ("a.png", png()))]
    with serving() as client:
        answer = client.post("/models/toy-model/predict", files=files)
        assert answer.status_code == 200
        body = answer.json()
        assert body["failed"] == 1
        assert [one["source"] for one in body["results"]] == ["a.png", "b.png", "a.png"]
        assert body["results"][1]["error"].startswith("can't read b.png: ")
        job = client.post("/models/toy-model/jobs", files=files).json()["id"]
        assert wait(client, job, "done")["total"] == 3
        names = [one["mask"].rpartition("/")[2] for one in client.get(f"/jobs/{job}/results").json()["files"] if one]
        assert names == ["a_mask.png", "a_2_mask.png"]


def test_a_job_tells_how_far_it_is_and_keeps_its_files(serving) -> None:
    with serving() as client:
        started = client.post("/models/toy-model/jobs", files={"image": ("eye.png", png())}, data={"layers": "60"})
        assert started.status_code == 202
        where, job = started.headers["location"], started.json()["id"]
        assert where == f"/jobs/{job}"
        seen = set()
        while (state := client.get(where).json())["state"] in ("waiting", "running"):
            seen.add(state["progress"])
            early = client.get(f"{where}/results").status_code
            assert early == 409 or client.get(where).json()["state"] == "done"  # it ended between the two questions
            time.sleep(0.02)
        assert len(seen - {0.0, 1.0}) > 3
        assert (state["state"], state["progress"]) == ("done", 1.0)
        (files,) = client.get(f"{where}/results").json()["files"]
        mask = client.get(files["mask"])
        assert np.asarray(Image.open(io.BytesIO(mask.content))).any()
        assert client.get(f"{where}/results", params={"format": "figure"}).headers["content-type"] == "image/png"
        assert client.get(f"{where}/files/..%2f..%2fetc%2fpasswd").status_code == 404
        assert client.delete(where).status_code == 200
        assert client.get(where).status_code == 404


@pytest.mark.parametrize("bars", ["true", "false"])
def test_a_job_is_cancelled_at_its_next_step(serving, bars: str) -> None:
    ask = {"files": {"image": ("eye.png", png())}, "data": {"layers": "100000", "bars": bars}}
    with serving() as client:
        job, waiting = (client.post("/models/toy-model/jobs", **ask).json()["id"] for _ in range(2))
        wait(client, job, "running")
        assert client.get(f"/jobs/{waiting}").json()["before"] == 1
        client.delete(f"/jobs/{waiting}")
        assert client.get(f"/jobs/{waiting}").json()["state"] == "cancelled"
        start = time.monotonic()
        client.delete(f"/jobs/{job}")
        wait(client, job, "cancelled")
        assert time.monotonic() - start < 2
        refused = client.get(f"/jobs/{job}/results")
        assert (refused.status_code, refused.json()["detail"]) == (409, "it was cancelled")
        assert client.post("/models/toy-model/predict", files=ask["files"]).status_code == 200  # the desk is free


def test_what_takes_too_long_is_stopped(serving) -> None:
    with serving(seconds=0.3) as client:
        client.post("/models/toy-model/predict", files={"image": ("eye.png", png())})  # torch is imported
        answer = client.post(
            "/models/toy-model/predict", files={"image": ("eye.png", png())}, data={"layers": "1000000"}
        )
        assert answer.status_code == 504
        assert "more than the 0.3 seconds" in answer.json()["detail"]


def test_a_full_queue_sends_away_and_says_until_when(serving) -> None:
    ask = {"files": {"image": ("eye.png", png())}}
    with serving(queue=2) as client:
        jobs = [client.post("/models/toy-model/jobs", **ask, data={"layers": "100000"}).json()["id"] for _ in range(2)]
        for path in ("predict", "jobs"):
            refused = client.post(f"/models/toy-model/{path}", **ask)
            assert refused.status_code == 503
            assert 1 <= int(refused.headers["retry-after"]) <= 600
            assert "the server is busy: 2 requests are before yours" in refused.json()["detail"]
        for job in jobs:
            client.delete(f"/jobs/{job}")
            wait(client, job, "cancelled")
        assert client.post("/models/toy-model/predict", **ask).status_code == 200


def test_results_are_dropped_after_a_while(serving) -> None:
    with serving(keep=0.2) as client:
        job = client.post("/models/toy-model/jobs", files={"image": ("eye.png", png())}).json()["id"]
        wait(client, job, "done")
        house = client.app.state.house
        folder = house.jobs[job][1].folder
        assert (folder / "results").is_dir()
        for _ in range(100):
            if client.get(f"/jobs/{job}").status_code == 404 and not folder.exists():
                break
            time.sleep(0.05)
        assert client.get(f"/jobs/{job}").status_code == 404
        assert not folder.exists()


def test_nothing_is_left_of_a_request(serving) -> None:
    with serving() as client:
        folder = client.app.state.house.temporary.folder
        for format in ("json", "zip", "nothing"):
            client.post("/models/toy-model/predict", files={"image": ("eye.png", png())}, params={"format": format})
        client.post("/models/toy-model/jobs", files={"image": ("eye.png", png())}, data={"threshold": "9"})
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not folder.exists()


BAD = {
    "no picture": ({"image": ("b.png", b"no picture")}, {}),
    "empty": ({"image": ("b.png", b"")}, {}),
    "half a picture": ({"image": ("b.png", png()[:300])}, {}),
    "flat": ({"image": ("b.png", png(np.zeros((20, 20), np.uint8)))}, {}),
    "out of range": ({"image": ("b.png", png())}, {"threshold": "7"}),
    "no number": ({"image": ("b.png", png())}, {"threshold": "high"}),
    "no such choice": ({"image": ("b.png", png())}, {"mode": "slow"}),
    "no such option": ({"image": ("b.png", png())}, {"treshold": "0.5"}),
    "inverted box": ({"image": ("b.png", png())}, {"box": "30,30,10,10"}),
    "no flag": ({"image": ("b.png", png())}, {"invert": "perhaps"}),
    "no such sample": ({}, {"image": "sample:retinna"}),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_the_sentence_of_the_command_line(serving, zoo_cli, tmp_path, monkeypatch, kind: str) -> None:
    files, fields = BAD[kind]
    monkeypatch.chdir(tmp_path)
    arguments = ["toy-model"]
    for name, content in files.values():
        Path(name).write_bytes(content)
        arguments.append(name)
    for name, value in fields.items():
        arguments += [value] if name == "image" else ["--with", f"{name}={value}"]
    sentence = zoo_cli("predict", *arguments, "--device", "cpu", "--out", "out").refused.removeprefix("zoo: ")
    with serving() as client:
        answer = client.post("/models/toy-model/predict", files=files or None, data=fields)
        assert answer.status_code == 422
        assert answer.json()["detail"] == sentence
        job = client.post("/models/toy-model/jobs", files=files or None, data=fields)
        if job.status_code == 202:  # it's found out later
            assert wait(client, job.json()["id"], "failed")["detail"] == sentence
        else:
            assert job.json()["detail"] == sentence


def test_what_is_no_form_is_refused(serving) -> None:
    with serving() as client:
        for content, kind in (
            (b"{}", "application/json"), (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
            (b"", "multipart/form-data"), (b"", "text/plain"),
        ):  # fmt: skip
            answer = client.post("/models/toy-model/predict", content=content, headers={"content-type": kind})
            assert answer.status_code in (400, 422), (kind, answer.text)
            assert answer.json()["detail"]
        assert "no input was given" in client.post("/models/toy-model/predict", data={"mode": "fast"}).json()["detail"]
        many = client.post("/models/toy-model/predict", data={f"f{number}": "1" for number in range(1100)})
        assert many.status_code == 400


def test_unknown_models_and_addresses(serving) -> None:
    with serving() as client:
        answer = client.post("/models/toy-modle/predict", data={"image": "sample:retina"})
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            "there is no model 'toy-modle'; did you mean toy-model?",
        )
        hidden = client.post("/models/map-vessel/predict", data={"image": "sample:retina"})
        assert (hidden.status_code, hidden.json()["detail"]) == (
            404, "there is no model 'map-vessel' here; this server has toy-model",
        )  # fmt: skip
        assert client.get("/jobs/none").status_code == 404


def test_a_fault_of_a_plugin_is_no_fault_of_the_sender(serving) -> None:
    with serving() as client:
        answer = client.post("/models/toy-model/predict", files={"image": ("b.png", png())}, data={"fault": "true"})
        assert answer.status_code == 500
        assert answer.json()["detail"].startswith("can't predict on b.png: RuntimeError: a fault of the plugin")
        assert client.post("/models/toy-model/predict", files={"image": ("b.png", png())}).status_code == 200


def test_the_command_line_serves_and_says_where(zoo_cli, tmp_path: Path) -> None:
    assert "choose one from 1 to 65535" in zoo_cli("serve", "--port", "70000").refused
    assert "there is no model 'no-model'" in zoo_cli("serve", "no-model").refused
    assert "--memory must be a size such as 500MB or 4GB" in zoo_cli("serve", "--memory", "much").refused
    assert "write --weights MODEL=WEIGHTS" in zoo_cli("serve", "--weights", "map-vessel").refused
    assert "can't listen on 192.0.2.1 port 8000" in zoo_cli("serve", "--host", "192.0.2.1", "--no-page").refused
    heavy = "('torch', 'fastapi', 'gradio', 'PIL', 'numpy')"
    code = f"import sys, zoo.cli, zoo.serve, zoo.client; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
