"""The same server on Ray Serve: ``zoo serve --engine ray --replicas N``. Needs the extra ``cluster`` too.

The application, with its page, its jobs and its queue, runs once; what it predicts is predicted by N replicas, wherever
on the cluster they are. A request's files travel to a replica and its results back, so nobody shares a disk. A replica
that dies is started again, and what it was asked is asked another.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from zoo import extras
from zoo.errors import OptionError, ZooError
from zoo.serve.desk import CancelledError, Ticket
from zoo.serve.house import House
from zoo.serve.settings import Settings
from zoo.serve.uploads import Asked
from zoo.text import printable

NAME, REPLICA, FRONT = "zoo", "replica", "front"
CORES = 4
"""Of a replica without a GPU, where the cluster has as many for each."""
ASK_AGAIN = 3
LOOK = 0.2  # seconds between looks at whether a request is still wanted


def run(settings: Settings, replicas: int, address: str | None, announce: Callable[[str], None]) -> None:
    """Serve until interrupted. Raises ``OptionError`` for a cluster or a port that can't be had."""
    extras.require(("serve", "cluster"), "zoo serve --engine ray")
    from zoo.cluster import connected
    from zoo.serve.listening import announce_address

    settings = replace(settings, port=_free(settings))
    with connected(address) as resources:
        from ray import serve

        serve.start(
            http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None},
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        try:
            serve.run(deployed(settings, replicas, resources), name=NAME, route_prefix="/")
            announce_address(settings, settings.port, announce)
            while True:
                time.sleep(1)
        finally:
            serve.shutdown()


def deployed(settings: Settings, replicas: int, resources: dict[str, float]) -> Any:
    """The application of Ray Serve: the front, bound to its replicas."""
    from ray import serve

    gpus = int(resources.get("GPU", 0)) if settings.device != "cpu" else 0
    cores = max(1, min(CORES, int(resources.get("CPU", 1)) // replicas))
    need = {"num_gpus": 1} if gpus else {"num_cpus": min(cores, 1)}
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    worker: Any = serve.deployment(
        Replica, name=REPLICA, num_replicas=replicas, max_ongoing_requests=1, ray_actor_options=need,
        logging_config=quiet,
    )  # fmt: skip

    def build() -> FastAPI:
        from zoo.serve.app import create

        handle = serve.get_deployment_handle(REPLICA, app_name=NAME)
        return create(settings, RayHouse(settings, handle, replicas))

    front: Any = serve.deployment(
        serve.ingress(build)(), name=FRONT, num_replicas=1, max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0}, logging_config=quiet,
    )  # fmt: skip
    return front.bind(worker.bind(settings, cores))


class Replica:
    """Holds models and does one request at a time."""

    def __init__(self, settings: Settings, cores: int) -> None:
        import torch

        from zoo import progress
        from zoo.serve.pool import Pool

        progress.silence()
        torch.set_num_threads(cores)
        self.pool = Pool(settings)
        self.seconds = settings.seconds

    def predict(self, asked: Asked, files: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
        """The answer, or the ``ZooError``, and the files of the results by name."""
        from zoo.serve import answers

        folder = Path(tempfile.mkdtemp(prefix="zoo-replica-"))
        try:
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            ticket: Ticket[Any] = Ticket(_NoDesk(), self.seconds)  # type: ignore[arg-type]
            ticket.deadline = time.monotonic() + self.seconds
            try:
                answer = answers.predict(self.pool, moved(asked, folder), ticket)
            except ZooError as error:
                return _plain(error), {}
            made = {path.name: path.read_bytes() for path in answer.folder.iterdir()} if answer.folder.is_dir() else {}
            answer.errors = [_plain(error) for error in answer.errors]
            return answer, made
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _NoDesk:
    """A replica's tickets are nobody else's."""

    def drop(self, ticket: Any) -> None:
        pass


def _plain(error: ZooError) -> ZooError:
    """Without its cause, which may not travel."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def moved(asked: Asked, folder: Path) -> Asked:
    """What is asked for, with its files in another folder."""
    before = str(asked.folder) + os.sep

    def there(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(before):
            return str(folder / value[len(before) :])
        return type(value)(there(one) for one in value) if isinstance(value, list | tuple) else value

    return replace(
        asked, folder=folder, inputs=there(asked.inputs), chosen={k: there(v) for k, v in asked.chosen.items()}
    )


class RayHouse(House):
    """A house that has its predictions made by replicas, as many at a time as there are."""

    def __init__(self, settings: Settings, handle: Any, replicas: int) -> None:
        super().__init__(settings)
        self.handle = handle
        self._hands = ThreadPoolExecutor(replicas, thread_name_prefix="zoo-front")

    def predict(self, asked: Asked) -> Ticket[Any]:
        ticket: Ticket[Any] = Ticket(self.desk, self.settings.seconds)
        ticket._work = lambda mine: self._asked(asked, mine)
        self._hands.submit(ticket.run)
        return ticket

    def _asked(self, asked: Asked, ticket: Ticket[Any]) -> Any:
        files = {
            path.relative_to(asked.folder).as_posix(): path.read_bytes()
            for path in asked.folder.rglob("*")
            if path.is_file()
        }
        for attempt in range(ASK_AGAIN):
            response = self.handle.predict.remote(asked, files)
            try:
                answer, made = self._awaited(response, ticket)
                break
            except (ZooError, CancelledError):
                raise
            except Exception as error:  # a replica that died
                if attempt == ASK_AGAIN - 1:
                    said = printable(str(error).strip().partition("\n")[0], 120)
                    raise ZooError(f"no replica could answer ({said}); try again") from error
        if isinstance(answer, ZooError):
            raise answer
        answer.folder = asked.folder / "results"
        answer.folder.mkdir(exist_ok=True)
        for name, content in made.items():
            (answer.folder / name).write_bytes(content)
        return answer

    def _awaited(self, response: Any, ticket: Ticket[Any]) -> Any:
        """The answer of a replica; the request is taken back when nobody wants it any more."""
        while True:
            try:
                return response.result(timeout_s=LOOK)
            except TimeoutError:
                try:
                    ticket.check()
                except ZooError:
                    response.cancel()
                    raise


def _free(settings: Settings) -> int:
    """The port, or a free one where it is 0. Raises ``OptionError`` for one that is taken."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((settings.host, settings.port))
            return int(sock.getsockname()[1])
    except OSError as error:
        reason = printable(error.strerror or str(error), 80).lower()
        raise OptionError(
            f"can't listen on {settings.host} port {settings.port}: {reason}; choose others with --host and --port"
        ) from None
