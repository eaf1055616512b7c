"""A paper's headline as something that can be run: method against baselines over several seeds, with a verdict.

``types`` holds what a claim and its result are, ``statistics`` the rule of the verdict, ``runner`` the running,
``report`` the words and ``picture`` the plot.
"""

from zoo.claims.picture import figure
from zoo.claims.report import print_result, report, report_text
from zoo.claims.runner import reproduce
from zoo.claims.statistics import Verdict, paired
from zoo.claims.types import Claim, ClaimResult, Compared, Comparison, compare, load_result

__all__ = [
    "Claim",
    "ClaimResult",
    "Compared",
    "Comparison",
    "Verdict",
    "compare",
    "figure",
    "load_result",
    "paired",
    "print_result",
    "report",
    "report_text",
    "reproduce",
]
