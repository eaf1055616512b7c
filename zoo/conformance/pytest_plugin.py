"""``pytest --pyargs zoo.conformance --model NAME``.

Pytest loads this in every session of a Python that has the zoo, so it adds nothing unless the suite is asked for: an
option ``--model`` of somebody else's tests stays theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _asked_for(arguments: list[str]) -> bool:
    here = Path(__file__).parent
    return any(
        text.startswith("zoo.conformance") or (text and not text.startswith("-") and Path(text).absolute() == here)
        for text in (str(argument).partition("::")[0] for argument in arguments)
    )


def pytest_load_initial_conftests(args: list[str], parser: Any) -> None:
    if _asked_for(args):
        parser.addoption(
            "--model",
            action="append",
            metavar="NAME",
            help="A model, as zoo list shows it, for pytest --pyargs zoo.conformance; may be given several times.",
        )
