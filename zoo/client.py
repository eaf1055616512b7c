"""A server's models from a script, without torch: ``zoo.client.Client(url).predict("map-vessel", "eye.png")``.

The standard library does all of it. Errors are those of :mod:`zoo.errors`, with the sentences that a prediction on this
machine gives.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from zoo import errors
from zoo._version import __version__
from zoo.errors import MediaError, OptionError, ZooError
from zoo.options import PATHS
from zoo.spec import is_kind
from zoo.storage import user_path
from zoo.text import printable

_IN_MEMORY = 8 << 20  # bytes of a request that needs no file on its way


@dataclass(frozen=True)
class Result:
    """What a server found in one input. Raises ``ZooError`` for a file that wasn't asked for."""

    record: dict[str, Any]  # as ``Prediction.to_dict`` has it
    files: dict[str, bytes] = field(default_factory=dict)  # by name, where files were asked for

    @property
    def source(self) -> str:
        return str(self.record.get("source", ""))

    @property
    def error(self) -> str | None:
        """Why there is no result, where others of the same request have one."""
        return self.record.get("error")

    def summary(self) -> str:
        """One line for a table."""
        return str(self.record.get("summary") or self.error or "")

    def figure(self) -> Any:
        """The figure, as a Pillow image."""
        from PIL import Image

        return Image.open(io.BytesIO(self._file("figure")))

    def _file(self, kind: str) -> bytes:
        name = self.record.get(kind)
        if name not in self.files:
            raise OptionError(f"there is no {kind} here; ask for files with predict(..., files=True)")
        return self.files[name]

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files, as ``Prediction.save`` does; returns their paths."""
        from zoo.storage import filling

        if not self.files:
            raise OptionError("there are no files here; ask for them with predict(..., files=True)")
        with filling(folder) as draft:
            for name, content in self.files.items():
                (draft / name).write_bytes(content)
        return [Path(folder, name) for name in self.files]


@dataclass(frozen=True)
class Job:
    """A prediction that goes on at the server."""

    client: Client
    id: str

    def status(self) -> dict[str, Any]:
        """``state`` (waiting, running, done, failed, cancelled), ``progress`` in [0, 1], ``before``, ``done``..."""
        return cast("dict[str, Any]", self.client._json("GET", f"/jobs/{self.id}"))

    def cancel(self) -> None:
        """Stop it; of a finished one, drop the results."""
        self.client._json("DELETE", f"/jobs/{self.id}")

    def results(self, *, every: float = 0.5) -> list[Result]:
        """Wait for the end; the results with their files. Raises what the prediction raised."""
        while self.status()["state"] in ("waiting", "running"):
            time.sleep(every)
        body = self.client._json("GET", f"/jobs/{self.id}/results")
        files = _unzipped(self.client._content("GET", f"/jobs/{self.id}/results?format=zip"))
        return _results(body, files)


class Client:
    """The server at ``url``, such as ``http://127.0.0.1:8000``.

    ``token``: what the server asks for; by default that of the environment, ``ZOO_SERVE_TOKEN``. ``timeout``: seconds
    to wait for an answer, and for a place when the server is busy. Raises ``OptionError`` for what is no address.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, *, timeout: float = 660) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{printable(url, 80)} is no address of a server; write http://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.token = token or os.environ.get("ZOO_SERVE_TOKEN") or None
        self.timeout = timeout
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = build_opener(_Straight(), *([ProxyHandler({})] if local else []))
        self._cards: dict[str, dict[str, Any]] = {}

    def models(self, *, task: str | None = None, modality: str | None = None) -> list[dict[str, Any]]:
        """The cards of the models that are served."""
        query = urlencode({key: value for key, value in (("task", task), ("modality", modality)) if value})
        return cast("list[dict[str, Any]]", self._json("GET", f"/models?{query}"))

    def info(self, model: str) -> dict[str, Any]:
        """The card of one model. Raises ``PluginError`` when it isn't there."""
        return cast("dict[str, Any]", self._json("GET", f"/models/{quote(model, safe=':')}"))

    def samples(self) -> list[dict[str, str]]:
        return cast("list[dict[str, str]]", self._json("GET", "/samples"))

    def predict(self, model: str, inputs: Any, *, files: bool = False, **options: Any) -> list[Result]:
        """Predict on one input or a list of them: files, folders (sent as a zip), ``sample:NAME``, ``phantom:NAME``.

        ``files``: figures and masks too, not records alone. ``options``: those of the card; paths are sent as files. An
        error of a single input is raised; of several, each result has its own.
        """
        if files:
            job = self.submit(model, inputs, **options)
            try:
                return job.results(every=0.05)
            finally:
                job.cancel()
        with self._form(model, inputs, options) as form:
            return _results(self._json("POST", f"/models/{quote(model, safe=':')}/predict", form), {})

    def submit(self, model: str, inputs: Any, **options: Any) -> Job:
        """Start a prediction that takes long."""
        with self._form(model, inputs, options) as form:
            return Job(self, self._json("POST", f"/models/{quote(model, safe=':')}/jobs", form)["id"])

    def _form(self, model: str, inputs: Any, options: Mapping[str, Any]) -> _Form:
        if model not in self._cards:
            self._cards[model] = self.info(model)
        kinds = {item["name"]: item["kind"] for item in self._cards[model]["inputs"]}
        form = _Form()
        try:
            for one in inputs if isinstance(inputs, list | tuple) else [inputs]:
                form.add(next(iter(kinds)), one, path=True)
            for name, value in options.items():
                kind = kinds.get(name, "text")
                for one in _several(kind, value):
                    form.add(name, one, path=kind in PATHS)
        except BaseException:
            form.close()
            raise
        return form

    def _json(self, method: str, path: str, form: _Form | None = None) -> Any:
        content = self._content(method, path, form)
        try:
            return json.loads(content)
        except ValueError:
            raise ZooError(f"{self.url} answers with what is no JSON; is it a server of zoo?") from None

    def _content(self, method: str, path: str, form: _Form | None = None) -> bytes:
        """The body of an answer; while the server is busy, it's asked again when it says."""
        until = time.monotonic() + self.timeout
        while True:
            try:
                with self._open(method, path, form) as response:
                    return cast("bytes", response.read())
            except HTTPError as error:
                wait = error.headers.get("Retry-After", "")
                refused = _refusal(error)
                if error.code != 503 or not wait.isdecimal() or time.monotonic() + int(wait) > until:
                    raise refused from None
                time.sleep(int(wait))
            except (URLError, HTTPException, OSError) as error:
                reason = getattr(error, "reason", error)
                text = printable(getattr(reason, "strerror", None) or reason, 120)
                raise ZooError(f"can't reach {self.url}: {text}; check the address, or start zoo serve there") from None

    def _open(self, method: str, path: str, form: _Form | None) -> HTTPResponse:
        headers = {"User-Agent": f"medimg-zoo/{__version__}", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None
        if form is not None:
            body, more = form.ready()
            headers |= more
        request = Request(self.url + path, data=cast(Any, body), headers=headers, method=method)
        return cast(HTTPResponse, self._opener.open(request, timeout=self.timeout))


class _Straight(HTTPRedirectHandler):
    """Follows nobody: the token is for this server alone."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Form:
    """A multipart form on its way: in memory, or in a file when it is large. Use as a context."""

    def __init__(self) -> None:
        self._boundary = uuid.uuid4().hex
        self._body: IO[bytes] = cast("IO[bytes]", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115

    def __enter__(self) -> _Form:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._body.close()

    def add(self, name: str, value: Any, *, path: bool) -> None:
        """A field, or a file where ``path`` says that the value names one. Raises ``MediaError`` when there is none."""
        if not path or is_kind(value, "sample", "phantom"):
            self._head(name)
            self._body.write(_text(value).encode())
        elif hasattr(value, "save") and hasattr(value, "getbands"):  # a Pillow image
            self._head(name, "image.png")
            value.save(self._body, "PNG")
        elif isinstance(value, str | os.PathLike):
            found = user_path(value, MediaError)
            if found.is_dir():
                self._head(name, f"{found.resolve().name or 'folder'}.zip")
                self._zip(found)
            elif found.is_file():
                self._head(name, found.name)
                with open(found, "rb") as file:
                    while chunk := file.read(1 << 20):
                        self._body.write(chunk)
            else:
                raise MediaError(f"can't read {value}: there is no such file or folder; check the path")
        else:
            raise OptionError(
                f"{name} must be a path, a sample, a phantom or a Pillow image, not a {type(value).__name__}"
            )
        self._body.write(b"\r\n")

    def ready(self) -> tuple[IO[bytes], dict[str, str]]:
        """The whole body from its start, and the headers that belong to it."""
        self._body.seek(0, os.SEEK_END)
        end = f"--{self._boundary}--\r\n".encode()
        length = self._body.tell()
        self._body.seek(max(0, length - len(end)))
        if self._body.read() != end:
            self._body.write(end)
            length += len(end)
        self._body.seek(0)
        kind = f"multipart/form-data; boundary={self._boundary}"
        return self._body, {"Content-Type": kind, "Content-Length": str(length)}

    def _head(self, name: str, filename: str | None = None) -> None:
        shown = f'form-data; name="{_quoted(name)}"' + (f'; filename="{_quoted(filename)}"' if filename else "")
        kind = "Content-Type: application/octet-stream\r\n" if filename else ""
        self._body.write(f"--{self._boundary}\r\nContent-Disposition: {shown}\r\n{kind}\r\n".encode())

    def _zip(self, folder: Path) -> None:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as packed:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for path in sorted(folder.rglob("*")):
                    if path.is_file() and not path.name.startswith("."):
                        archive.write(path, path.relative_to(folder))
            packed.seek(0)
            while chunk := packed.read(1 << 20):
                self._body.write(chunk)


def _several(kind: str, value: Any) -> Iterator[Any]:
    """The fields that an option becomes: one for each of several values, and for each coordinate."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        return
    if not isinstance(value, list | tuple):
        yield value
    elif kind in ("box", "point", "click") and value and not isinstance(value[0], list | tuple | str):
        yield ",".join(map(_text, value))
    else:
        for one in value:
            yield ",".join(map(_text, one)) if isinstance(one, list | tuple) else one


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    return text.replace("%", "%25").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _results(body: Mapping[str, Any], files: Mapping[str, bytes]) -> list[Result]:
    found = []
    for place, record in enumerate(body["results"]):
        named = body["files"][place] if "files" in body else {}
        own = {kind: url.rpartition("/")[2] for kind, url in named.items()}
        found.append(Result({**record, **own}, {name: files[name] for name in own.values() if name in files}))
    return found


def _unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


def _refusal(error: HTTPError) -> ZooError:
    """What a server refuses, as the error that it is there."""
    try:
        body = json.loads(error.read(1 << 20))
        name, detail = str(body["error"]), printable(body["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return ZooError(f"the server answers {error.code} {printable(error.reason, 80)}; is it a server of zoo?")
    kind = getattr(errors, name, ZooError)
    known: Iterable[type[ZooError]] = (
        MediaError,
        OptionError,
        errors.PluginError,
        errors.WeightsError,
        errors.DataError,
    )
    return kind(detail) if kind in known else ZooError(detail)
