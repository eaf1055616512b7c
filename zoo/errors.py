"""What the zoo says when it can't go on: one sentence that names the thing and the remedy.

Every error a user can cause derives from :class:`ZooError`; the command line prints its message on stderr and exits
with code 2. Anything else is a bug and shows a traceback.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class ZooError(Exception):
    """Base of all errors that a user can cause and mend."""


class MediaError(ZooError):
    """A file or array that can't be read as an image; names the source and the reason."""


class PluginError(ZooError):
    """A plugin that is unknown, broken, ambiguous or misdeclared."""


class OptionError(ZooError):
    """An option that is unknown, of the wrong type or outside its range."""


class WeightsError(ZooError):
    """Weights that are missing, malformed, unsafe, or made for another model."""


class DataError(ZooError):
    """A data set that can't be trained or evaluated on as it stands."""


class DataWarning(UserWarning):
    """What had to be assumed of a data set; the command line prints it as a note."""


@contextmanager
def noting(notes: list[str]) -> Iterator[None]:
    """Adds the ``DataWarning``s of the block to ``notes``; other warnings are shown as ever, after it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        yield
    for one in caught:
        if issubclass(one.category, DataWarning):
            notes.append(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


class MissingExtraError(ZooError):
    """A library that belongs to an extra of this distribution is not installed."""

    def __init__(self, needed_by: str, library: str, extra: str, distribution: str = "medimg-zoo") -> None:
        super().__init__(
            f"{needed_by} needs the library {library}, which is not installed; "
            f"install it with: pip install '{distribution}[{extra}]'"
        )
        self.library = library
        self.extra = extra
