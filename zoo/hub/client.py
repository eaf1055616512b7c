"""What is said to the Hub and how: addresses, patience, and one sentence for every refusal."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo._version import __version__
from zoo.errors import WeightsError, ZooError
from zoo.extras import DISTRIBUTION
from zoo.hub import guard
from zoo.weights import shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling
else:
    HfApi = RepoSibling = Any  # the library comes in with the first question to the Hub

RETRIES, FIRST_WAIT, LONGEST_WAIT = 4, 1.0, 60.0  # seconds
TIMEOUT = 30.0  # seconds
RETRY_STATUS = (408, 429, 500, 502, 503, 504)

_ADDRESS = re.compile(r"(?:hf://)?(?P<repo>[\w\-][\w.\-]*/[\w\-][\w.\-]*)(?:@(?P<revision>[\w.\-/]+))?")
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """``hf://ORG/REPO[@REVISION]``; a revision is a branch, a tag or a commit hash."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def address(text: str) -> Address:
    """Read ``hf://ORG/REPO[@REVISION]``; the ``hf://`` may be left out. Raises ``WeightsError``."""
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text or "--" in match["repo"]:
        raise WeightsError(f"{text} is not a Hub address; write hf://ORG/REPO or hf://ORG/REPO@REVISION")
    return Address(match["repo"], match["revision"])


class NotCached(Exception):
    """The cache lacks what was asked for."""


class Unreachable(Exception):
    """No answer from the Hub; the message says why."""


def api() -> HfApi:
    """The Hub's client, looked after and under the zoo's own name: every request that the zoo makes goes through it."""
    guard.install()
    from huggingface_hub import HfApi

    return HfApi(library_name=DISTRIBUTION, library_version=__version__)


def listing_of(where: Address) -> dict[str, RepoSibling]:
    """The files of a repository with sizes and hashes. Raises ``Unreachable``."""
    client = api()
    try:
        info = patiently(
            lambda: client.model_info(where.repo, revision=where.revision, files_metadata=True, timeout=TIMEOUT)
        )
    except Exception as error:
        if why := _why_unreachable(error):
            raise Unreachable(why) from error
        raise
    return {sibling.rfilename: sibling for sibling in info.siblings or []}


def download(where: Address, names: Iterable[str]) -> Path:
    client = api()
    patterns = [glob.escape(name) for name in names]
    _log.info("fetching %d files of %s", len(patterns), where)
    with explained(where):
        snapshot = patiently(
            lambda: client.snapshot_download(where.repo, revision=where.revision, allow_patterns=patterns)
        )
    return Path(snapshot)


def in_cache(where: Address, patterns: list[str]) -> Path:
    """The snapshot of a revision in the cache. Raises ``NotCached``."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = api().snapshot_download(
            where.repo, revision=where.revision, allow_patterns=patterns, local_files_only=True
        )
    except (LocalEntryNotFoundError, NotADirectoryError) as error:
        raise NotCached from error
    return Path(folder)


def size_text(size: float) -> str:
    """A size in bytes for people: ``46.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call that the Hub refused for the moment (429, 5xx); ``Retry-After`` is obeyed up to a minute."""
    wait = FIRST_WAIT
    for attempt in range(RETRIES + 1):
        try:
            return call()
        except Exception as error:
            response = _response(error)
            if attempt == RETRIES or response is None or response.status_code not in RETRY_STATUS:
                raise
            asked = response.headers.get("Retry-After", "")
            _log.info("the Hub answers %s; it's asked again", response.status_code)
            time.sleep(min(max(wait, float(asked) if asked.isdigit() else 0.0), LONGEST_WAIT))
            wait *= 2
    raise AssertionError("unreachable")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it; the client wraps some answers of the Hub in others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> Any:
    """The refusing answer behind an error, or ``None``."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((e.response for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)


def _why_unreachable(error: BaseException) -> str | None:
    """Why there is no usable answer from the Hub, or ``None`` if there is one."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    response = _response(error)
    if response is not None:
        return f"it answers {response.status_code}" if response.status_code in RETRY_STATUS else None
    for link in _chain(error):
        if isinstance(link, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        # The client's HTTP library was renamed between its releases, so its errors are known by their base's name.
        if any(base.__name__ == "TransportError" for base in type(link).__mro__):
            return "no connection"
    return None


def refused(error: BaseException) -> str | None:
    """Why the Hub gave no answer that can be used and what to do, or ``None`` for an error that isn't about that."""
    if why := _why_unreachable(error):
        return f"it can't be reached ({why}); check the connection and try again"
    if (response := _response(error)) is not None:
        return f"it answers {response.status_code}{_said(response)}; check HF_ENDPOINT and try again"
    if isinstance(error, (ValueError, KeyError, TypeError, AssertionError)):
        return "the answer is not a Hub's; check HF_ENDPOINT, or try again"
    return None


@contextmanager
def explained(where: Address, doing: str = "read") -> Iterator[None]:
    """Turn what the client raises into one sentence, and keep its log and bars off a stderr that nobody watches."""
    with quiet():
        try:
            yield
        except (ZooError, Unreachable, NotCached):
            raise
        except Exception as error:
            sentence = _sentence(error, where, doing)
            if sentence is None:
                raise
            secret = _token()
            told = secret is not None and any(secret in str(link) for link in _chain(error))
            raise WeightsError(sentence) from (None if told else error)


def _sentence(error: Exception, where: Address, doing: str) -> str | None:
    from huggingface_hub import errors

    write = doing != "read"
    access = "write to" if write else "read"
    response = _response(error)
    links = list(_chain(error))

    def caused_by(kind: type[BaseException]) -> bool:
        return any(isinstance(link, kind) for link in links)

    # The proxies are read when a client is made; a malformed one gives an error of its own name, or a ValueError.
    if any(type(e).__name__ == "InvalidURL" or (isinstance(e, ValueError) and "proxy" in str(e)) for e in links):
        stated = [name for name in os.environ if re.fullmatch(r"(?i)(https?|all)_proxy", name) and os.environ[name]]
        which = " or ".join(stated) or "HF_ENDPOINT"
        return f"{where} can't be {doing}: {which} is no address; mend or unset it"
    if why := _why_unreachable(error):
        return f"{where} can't be {doing}: the Hub can't be reached ({why}); check the connection and try again"
    if response is not None:
        status = response.status_code
        if caused_by(errors.GatedRepoError):
            return f"{where} is gated; ask for access on its page and set HF_TOKEN to your token"
        if caused_by(errors.RevisionNotFoundError):
            return f"{where.repo} has no revision {where.revision or 'main'}; leave it out or choose another"
        if caused_by(errors.EntryNotFoundError):
            return f"{where} lacks a file that it lists; try again, or choose another revision"
        if status == 401 and _token() is not None:
            return f"the Hub does not accept the token for {where}; set HF_TOKEN to a valid one or run: hf auth login"
        if status == 403:
            return f"the token may not {access} {where}; set HF_TOKEN to one that may, or ask its owner for access"
        if status in (401, 404):
            return f"{where} does not exist or is private; check the name, or set HF_TOKEN to one that may {access} it"
        if status in (409, 412):
            return f"{where} was changed by someone else at the same time; try again"
        return f"{where} can't be {doing}: the Hub answers {status}{_said(response)}; check the name and try again"
    if isinstance(error, errors.HFValidationError):
        return f"{where} is not a Hub address; write hf://ORG/REPO or hf://ORG/REPO@REVISION"
    if isinstance(error, OSError):
        if error.errno is None:
            return f"{where} arrived incomplete; try again"
        from huggingface_hub import constants

        return (
            f"can't write {where} to the cache {constants.HF_HUB_CACHE}: {reason(error)}; "
            f"mend that folder or set HF_HOME to another"
        )
    if isinstance(error, (ValueError, KeyError, TypeError, AssertionError)):
        return f"{where} can't be {doing}: the answer is not a Hub's; check HF_ENDPOINT, or try again"
    return None


def _said(response: Any) -> str:
    """What the Hub said in a header, without anything secret in it."""
    text = response.headers.get("X-Error-Message", "")
    secret = _token()
    if not text or (secret and secret in text):
        return ""
    return f" ({shown(text)})"


def _token() -> str | None:
    return os.environ.get("HF_TOKEN") or _stored_token()


def _stored_token() -> str | None:
    from huggingface_hub import constants

    try:
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of the client would precede our one sentence; bars belong on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level, hide = logger.level, not sys.stderr.isatty() and not are_progress_bars_disabled()
    if not os.environ.get("HF_HUB_VERBOSITY") and not os.environ.get("HF_DEBUG"):
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if hide:
            disable_progress_bars()
        try:
            yield
        finally:
            logger.setLevel(level)
            if hide:
                enable_progress_bars()
