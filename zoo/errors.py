"""What the zoo says when it can't go on: one sentence that names the thing and the remedy.

Every error a user can cause derives from :class:`ZooError`; the command line prints its message on stderr and exits
with code 2. Anything else is a bug and shows a traceback.
"""

from __future__ import annotations


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


class MissingExtraError(ZooError):
    """A library that belongs to an extra of this distribution is not installed."""

    def __init__(self, needed_by: str, library: str, extra: str, distribution: str = "medimg-zoo") -> None:
        super().__init__(
            f"{needed_by} needs the library {library}, which is not installed; "
            f"install it with: pip install '{distribution}[{extra}]'"
        )
        self.library = library
        self.extra = extra
