"""What comes with a request: files into a folder of their own, and options checked against the card.

Nothing of a request becomes a path: a file is kept under a number, by a name that is cleaned, and a text that names
an input may be ``sample:NAME`` or ``phantom:NAME?seed=N`` alone.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from zoo import options
from zoo.errors import MediaError, OptionError
from zoo.media.sniff import is_litter
from zoo.options import PATHS, READ
from zoo.plugin import Form, Input, Plugin
from zoo.spec import Spec, is_kind
from zoo.text import printable

CHUNK = 1 << 20


class TooLargeError(MediaError):
    """More than the server takes."""


@runtime_checkable
class Readable(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass
class Asked:
    """A prediction that is asked for: what it is of, and how."""

    model: str
    inputs: list[str]  # files and folders of this request, samples and phantoms
    chosen: dict[str, Any]  # the options, checked
    folder: Path
    formats: tuple[str, ...] = ()  # of the files to write; none: records alone
    figure: bool = False
    form: Form = "auto"  # of mask or report


@dataclass
class Budget:
    """Bytes and files that a request may still unpack to."""

    bytes: int
    files: int

    def spend(self, count: int, name: str) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise TooLargeError(
                f"can't take {name}: unpacked, it is larger than this server takes; send less at a time"
            )

    def one_more(self, name: str) -> None:
        self.files -= 1
        if self.files < 0:
            raise TooLargeError(f"can't take {name}: it holds more files than this server takes; send fewer at a time")


@dataclass
class Intake:
    """Collects the parts of one request."""

    plugin: Plugin
    folder: Path
    budget: Budget
    inputs: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    uploaded: dict[str, list[str]] = field(default_factory=dict)
    count: int = 0

    def is_input(self, name: str) -> bool:
        known = {item.name for item in self.plugin.options}
        return name == self.plugin.primary_input.name or (name in ("input", "inputs") and name not in known)

    def text(self, name: str, value: str) -> None:
        """A field. Raises ``OptionError`` for one that would name a file of the server."""
        if self.is_input(name):
            self.inputs.append(_named(value, f"the input {printable(value, 60)!r}"))
        else:
            self.texts.append((name, value))

    def file(self, name: str, filename: str, content: Readable) -> None:
        """An uploaded file. Raises ``MediaError`` for one that is too large, or a zip that isn't sound."""
        self.count += 1
        place = self.folder / str(self.count)
        place.mkdir()
        path = place / clean(filename)
        self.budget.one_more(path.name)
        with open(path, "xb") as file:
            while chunk := content.read(CHUNK):
                self.budget.spend(len(chunk), path.name)
                file.write(chunk)
        target = self.inputs if self.is_input(name) else self.uploaded.setdefault(name.replace("-", "_"), [])
        target.append(str(path))

    def asked(self, model: str) -> Asked:
        """The whole, checked as the command line checks it. Raises ``OptionError``."""
        tables = self.plugin.primary_input.kind == "images" or any(item.kind in READ for item in self.plugin.options)
        inputs = [self._unpacked(one, tables) for one in self.inputs]
        return Asked(model, inputs, self._chosen(inputs), self.folder)

    def _unpacked(self, given: str, table: bool = False) -> str:
        path = Path(given)
        if is_kind(given, "sample", "phantom") or not _is_zip(path):
            return given
        folder = unpacked(path, self.budget)
        tables = [one for one in folder.iterdir() if one.suffix.lower() in (".csv", ".tsv")] if table else []
        return str(tables[0] if len(tables) == 1 else folder)

    def _chosen(self, inputs: Sequence[str]) -> dict[str, Any]:
        declared = {item.name: item for item in self.plugin.options}
        parsed: dict[str, Any] = {}
        plain = []
        for name, value in self.texts:
            item = declared.get(name.strip().replace("-", "_"))
            if item is not None and item.kind in PATHS:
                what = f"option {item.name}, which is a {item.kind},"
                named = _named(value, what, made=item.kind not in ("table", "file", "folder"))
                self.uploaded.setdefault(item.name, []).append(named)
            elif value != "":  # a control that is left empty
                plain.append(f"{name.replace('=', '-')}={value}")
        parsed.update(options.parse(self.plugin, plain, whole=False))
        for name, paths in self.uploaded.items():
            found = declared.get(name)
            parsed[name] = self._value(found, paths) if found is not None else paths[0]
        return options.check(self.plugin, parsed, whole=not options.carry(self.plugin, inputs))

    def _value(self, item: Input, paths: Sequence[str]) -> Any:
        if item.kind not in PATHS:
            raise OptionError(f"option {item.name} is a {item.kind}, not a file; send its value as text")
        found = [self._unpacked(path) if item.kind in ("images", "volume", "folder") else path for path in paths]
        if item.many:
            return tuple(found)
        if len(found) > 1 and item.kind in ("images", "folder"):
            return str(together(self.folder / item.name, found))
        if len(found) > 1:
            raise OptionError(
                f"option {item.name} of {self.plugin.name} was given {len(found)} times; it takes one value"
            )
        return found[0]


def _named(value: str, what: str, made: bool = True) -> str:
    """A text that names an image without naming a file."""
    value = value.strip()
    if not made or not is_kind(value, "sample", "phantom"):
        also = ", or name sample:NAME or phantom:NAME?seed=N" if made else ""
        raise OptionError(f"{what} must be uploaded as a file{also}")
    spec = Spec.parse(value)
    if spec.kind == "phantom" and (set(spec.options) - {"seed"} or not spec.options.get("seed", "0").isdecimal()):
        raise OptionError(f"{printable(value, 60)}: a server takes the seed of a phantom and no other option")
    return value


def clean(filename: str) -> str:
    """What is left of a stranger's file name: its last part, printable, of a length that any system holds."""
    name = re.split(r"[/\\]", filename)[-1]
    name = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in name).strip().lstrip(".~")
    stem, dot, suffix = name.partition(".")
    if len(os.fsencode(name)) > 120:
        suffix = suffix if len(os.fsencode(suffix)) <= 20 else suffix.rpartition(".")[2][:20]
        name = os.fsencode(stem)[:80].decode(errors="ignore") + dot + suffix.encode()[:20].decode(errors="ignore")
    return name.encode(errors="replace").decode() or "upload"


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def unpacked(path: Path, budget: Budget) -> Path:
    """The folder that a zip holds, beside it; folders that hold nothing but one folder are stepped into.

    Raises ``MediaError`` for a damaged or encrypted zip, one that leads out of its folder, and one that unpacks to more
    than ``budget`` allows: what comes out is counted, not what the zip says.
    """
    folder = path.with_name(path.name.rpartition(".")[0] or f"{path.name}_unpacked")
    if folder == path:
        folder = path.with_name(f"{path.name}_unpacked")
    folder.mkdir()
    _check_index(path, budget)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _extract(archive, member, folder, path.name, budget)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, RuntimeError, OSError) as error:
        raise MediaError(
            f"can't read {path.name}: it is a damaged ZIP archive ({_first(error)}); pack it again"
        ) from error
    path.unlink()
    while len(inside := [one for one in folder.iterdir() if one.name != "__MACOSX"]) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


_END, _END_64, _COMMENT = b"PK\x05\x06", b"PK\x06\x07", 65535 + 22
_PER_FILE = 512  # bytes of the index of a zip for each file, at most


def _check_index(path: Path, budget: Budget) -> None:
    """Refuse a zip whose list of files alone would fill the memory, before it is read."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _COMMENT))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        raise MediaError(f"can't read {path.name}: it is a damaged ZIP archive (its end is missing); pack it again")
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    if size > _PER_FILE * max(1, budget.files) or tail[max(0, end - 20) : end].startswith(_END_64):
        raise TooLargeError(f"can't take {path.name}: it holds more files than this server takes; send fewer at a time")


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, name: str, budget: Budget) -> None:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    shown = printable(member.filename, 60)
    if not parts or member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or len(parts) > 20:
        raise MediaError(f"can't read {name}: its file {shown!r} has a name that leads elsewhere; pack it again")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise MediaError(f"can't read {name}: {shown!r} in it is a link or device; pack plain files")
    if member.flag_bits & 1:
        raise MediaError(f"can't read {name}: it is encrypted; pack it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MediaError(f"can't read {name}: it is packed in an unusual way; pack it again as a plain ZIP")
    budget.one_more(name)
    if is_litter(PurePosixPath(*parts)):
        return
    target = folder.joinpath(*map(clean, parts))
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(member) as packed, open(target, "xb") as file:
            while chunk := packed.read(CHUNK):
                budget.spend(len(chunk), name)
                file.write(chunk)
    except FileExistsError:
        raise MediaError(f"can't read {name}: it holds {shown!r} twice; pack it again") from None


def together(folder: Path, paths: Iterable[str]) -> Path:
    """One folder with files that came one by one, in their order."""
    folder.mkdir()
    for number, path in enumerate(paths, start=1):
        if is_kind(path, "sample", "phantom"):
            raise OptionError(f"{path} can't stand beside other files; give it alone")
        os.link(path, folder / f"{number:04d}_{Path(path).name}")
    return folder


def scrubbed(value: Any, folder: Path) -> Any:
    """Text, or plain data, in which files are called what the sender called them."""
    pattern = re.compile(re.escape(str(folder) + os.sep) + r"(?:\d+" + re.escape(os.sep) + ")?")
    return _replaced(value, pattern)


def _replaced(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub("", value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, pattern) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, pattern) for item in value]
    return value


def _first(error: BaseException) -> str:
    return printable(str(error) or type(error).__name__, 80)
