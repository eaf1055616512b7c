"""What a Hub may answer: the client builds paths from hashes and names, so they are looked at before it sees them.

A mirror, a wrong ``HF_ENDPOINT`` or a Hub that somebody took over answers as it likes. The client writes a file under
the name that its ETag states and a snapshot under its commit, so both must be plain hexadecimal digests.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable
from functools import wraps
from typing import Any

from zoo.errors import WeightsError
from zoo.weights import shown

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
DIGESTS = ("sha", "sha256", "oid", "blobId")  # so the answers of a Hub call them

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
_LONGEST = 255  # bytes in one name
_installing = threading.Lock()


def install() -> None:
    """From now on the client's session refuses what is no digest; whoever configured it keeps what he configured."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    with _installing:
        before = _http._GLOBAL_CLIENT_FACTORY
        if not hasattr(before, "guarded"):
            factory = wraps(before)(lambda: _guarded(before()))
            factory.guarded = True  # type: ignore[attr-defined]
            set_client_factory(factory)


def _guarded(client: Any) -> Any:
    """``client`` with a look at every answer; at its ``send``, which alone knows what was asked before redirects."""
    send = client.send

    def checked(request: Any, *arguments: Any, stream: bool = False, **options: Any) -> Any:
        response = send(request, *arguments, stream=stream, **options)
        try:
            _check_headers(request, response)
            if request.method == "GET" and not stream:
                _check_listing(request, response)
        except BaseException:
            response.close()
            raise
        return response

    client.send = checked
    return client


def _check_headers(request: Any, response: Any) -> None:
    commit = response.headers.get("X-Repo-Commit")
    if commit is None:  # then it isn't about a file, and the client takes nothing from it
        return
    if not COMMIT.fullmatch(commit):
        raise _refusal(request, "commit", commit)
    etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag")
    if request.method == "HEAD" and etag is not None and not DIGEST.fullmatch(etag.removeprefix("W/").strip('"')):
        raise _refusal(request, "ETag", etag)


def _check_listing(request: Any, response: Any) -> None:
    try:
        waiting = [response.json()]
    except (ValueError, RecursionError):
        return
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
            for name in DIGESTS:
                if (value := item.get(name)) is not None and not (isinstance(value, str) and DIGEST.fullmatch(value)):
                    raise _refusal(request, name, str(value))


def _refusal(request: Any, what: str, value: str) -> WeightsError:
    return WeightsError(
        f"the Hub {request.url.host} states the {what} {shown(value)} for {shown(request.url.path)}, which is no "
        f"plain hexadecimal digest; it was not fetched, check HF_ENDPOINT"
    )


def unportable(names: Iterable[str]) -> tuple[str, str] | None:
    """The first of ``names`` that can't lie in a folder on every system, and why; ``None`` if all can."""
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts, 1):
            if not part or part in (".", "..") or re.search(r'[<>:"|?*\\\x00-\x1f\x7f]', part):
                return name, "is no plain file name"
            if _DEVICE.fullmatch(part):
                return name, "is the name of a device on Windows"
            if part[-1] in ". ":
                return name, "ends with a dot or a space, which Windows drops"
            if len(part.encode(errors="surrogatepass")) > _LONGEST:
                return name, f"is longer than {_LONGEST} bytes"
            here = "/".join(parts[:depth])
            twin = seen.setdefault(unicodedata.normalize("NFC", here).casefold(), here)
            if twin != here:
                return name, f"differs from {shown(twin)} in upper and lower case only"
    return None
