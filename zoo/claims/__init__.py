"""A paper's headline as something that can be run: method against baselines over several seeds, with a verdict.

``types`` holds what a claim is, ``result`` what running it found, ``statistics`` the rule of the verdict, ``budget``
what the arms spend, ``digests`` which code it was, ``runner`` the running, ``records`` where results lie, ``report``
the words and ``picture`` the plot.
"""

from typing import TYPE_CHECKING, Any

from zoo.claims.budget import spending
from zoo.claims.records import load_result, record_of, record_path
from zoo.claims.report import page_of, print_result, report, report_text
from zoo.claims.result import ClaimResult
from zoo.claims.runner import confirm, is_current, reproduce
from zoo.claims.statistics import Compared, compare_all, paired
from zoo.claims.types import Claim, Comparison, Verdict

if TYPE_CHECKING:
    from zoo.claims.picture import figure

__all__ = [
    "Claim",
    "ClaimResult",
    "Compared",
    "Comparison",
    "Verdict",
    "compare_all",
    "confirm",
    "figure",
    "is_current",
    "load_result",
    "page_of",
    "paired",
    "print_result",
    "record_of",
    "record_path",
    "report",
    "report_text",
    "reproduce",
    "spending",
]


def __getattr__(name: str) -> Any:
    if name != "figure":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zoo.claims.picture import figure  # with Pillow, which a card's words don't need

    return figure
