"""A deployment on this machine: the app's folder, a SuperLink, a SuperNode per client, and ``flwr run``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo.errors import DataError, OptionError
from zoo.federated.app import FAILURE
from zoo.storage import new_folder

START_SECONDS = 60.0
# The last three are started by the others, which wait for ever where they can't be found.
COMMANDS = ("flwr", "flower-superlink", "flower-supernode", "flower-superexec", "flwr-serverapp", "flwr-clientapp")

LONGEST_NAME = 32
"""Letters of an app's name, by Flower."""

_PYPROJECT = """\
# Made by zoo train; `flwr run {folder} CONNECTION` runs it on a SuperLink of yours.
[project]
name = "{name}"
version = "1.0.0"
description = "A federated training of {name}"
license = "Apache-2.0"
dependencies = ["medimg-zoo[federated]"]

[tool.flwr.app]
publisher = "zoo"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

[tool.flwr.app.config]
rounds = {rounds}
clients = {clients}
"""

_MODULE = """\
import json
from pathlib import Path

from zoo.federated.app import {side}_app

app = {side}_app(json.loads((Path(__file__).parent / "federation.json").read_text(encoding="utf-8")))
"""


def write_app(folder: Path, facts: Mapping[str, Any], *, clients: int, rounds: int) -> Path:
    """The folder that ``flwr run`` takes: ``pyproject.toml``, both apps and the facts that they start from."""
    name = re.sub(r"[^a-z0-9]+", "-", str(facts["build"]).partition(":")[0].lower())
    name = re.sub(r"^[^a-z]+", "", name[-LONGEST_NAME:]).strip("-") or "app"  # the end tells most
    with new_folder(folder) as new:
        text = _PYPROJECT.format(folder=folder, name=name, rounds=rounds, clients=clients)
        (new / "pyproject.toml").write_text(text, encoding="utf-8")
        for side in ("server", "client"):
            (new / f"{side}_app.py").write_text(_MODULE.format(side=side), encoding="utf-8")
        (new / "federation.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder


def deploy(out: Path, stage: str, clients: int) -> None:
    """Run the app in ``out/app`` until its server has finished ``stage``; nothing is left running afterwards.

    TLS is off: SuperLink and SuperNodes speak over 127.0.0.1 only. What they print goes to ``out/logs``.
    Raises ``DataError`` when the server or a process of Flower's fails, ``OptionError`` for a command that isn't there.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if missing := [command for command in COMMANDS if shutil.which(command, path=path) is None]:
        raise OptionError(f"engine deployment needs Flower's command {missing[0]}, which isn't beside this Python")
    failure, done = out / "app" / FAILURE, out / "checkpoints" / f"{stage}-done"
    failure.unlink(missing_ok=True)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    link, *nodes = _free_ports(1 + clients)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoo-flower-", ignore_cleanup_errors=True)))
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "zoo"\n\n[superlink.zoo]\naddress = "127.0.0.1:{link}"\ninsecure = true\n',
            encoding="utf-8",
        )
        environment = {**os.environ, "PATH": path, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"}
        offline = "--disable-runtime-dependency-installation"

        def start(name: str, *command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(_process(out / "logs" / f"{name}.log", command, environment))

        running = {"the SuperLink": start("superlink", "flower-superlink", "--insecure", "--port", str(link), offline)}
        _wait_for_port(link, running)
        for client, port in enumerate(nodes):
            running[f"the SuperNode of client {client}"] = start(
                f"supernode-{client}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}",
                "--port", str(port), "--node-config", f"partition-id={client} num-partitions={clients}",
            )  # fmt: skip
        submitted = subprocess.run(
            ["flwr", "run", str(out / "app"), "zoo"], env=environment, capture_output=True, text=True, check=False
        )
        if submitted.returncode:
            raise DataError(f"flwr run refuses {out / 'app'}: {(submitted.stderr or submitted.stdout).strip()[-300:]}")
        while not done.is_dir():
            if failure.is_file():
                raise DataError(failure.read_text(encoding="utf-8"))
            _require_alive(running, out)
            time.sleep(0.2)
        for process in running.values():  # all at once: each takes a second or two to say goodbye
            _end(process, signal.SIGTERM)


@contextmanager
def _process(log: Path, command: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its children, all of them ended with the block."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            # Flower's processes end their own children when asked to, and only then.
            for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 5)):
                _end(process, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _wait_for_port(port: int, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        _require_alive(running, None)
        time.sleep(0.1)
    raise DataError(f"the SuperLink didn't start within {START_SECONDS:g} s")


def _require_alive(running: Mapping[str, subprocess.Popen[bytes]], out: Path | None) -> None:
    for name, process in running.items():
        if name == "the SuperLink" and process.poll() is not None:  # a lost SuperNode is a lost client, no more
            where = f"; see {out / 'logs'}" if out else ""
            raise DataError(f"{name} ended with status {process.returncode}{where}")


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
