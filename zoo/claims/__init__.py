"""A paper's headline as something that can be run: method against baselines over several seeds, with a verdict.

``types`` holds what a claim and its result are, ``statistics`` the rule of the verdict, ``runner`` the running,
``records`` where results lie, ``report`` the words and ``picture`` the plot.
"""

from typing import TYPE_CHECKING, Any

from zoo.claims.records import load_result, record_of, record_path
from zoo.claims.report import page_of, print_result, report, report_text
from zoo.claims.runner import reproduce
from zoo.claims.statistics import Verdict, paired
from zoo.claims.types import Claim, ClaimResult, Compared, Comparison, compare

if TYPE_CHECKING:
    from zoo.claims.picture import figure

__all__ = [
    "Claim",
    "ClaimResult",
    "Compared",
    "Comparison",
    "Verdict",
    "compare",
    "figure",
    "load_result",
    "page_of",
    "paired",
    "print_result",
    "record_of",
    "record_path",
    "report",
    "report_text",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    if name != "figure":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zoo.claims.picture import figure  # with Pillow, which a card's words don't need

    return figure
