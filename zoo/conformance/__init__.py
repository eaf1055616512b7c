"""What every plugin must pass, ours and other people's alike.

``zoo check MODEL`` and ``pytest --pyargs zoo.conformance --model MODEL`` run the same checks; a plugin's own tests may
call :func:`check`.
"""

from __future__ import annotations

from zoo.conformance.report import Report, Result, check
from zoo.conformance.rules import MAX_DEMO_BYTES

__all__ = ["MAX_DEMO_BYTES", "Report", "Result", "check"]
