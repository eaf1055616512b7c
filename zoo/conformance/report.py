"""Running the checks, and what they found."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from zoo.config import nearest
from zoo.conformance.rules import RULES, Failed, Rule, Skipped
from zoo.errors import OptionError, ZooError

if TYPE_CHECKING:
    from zoo.conformance.checks import Subject

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """What one check found."""

    check: str
    status: Status
    detail: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """The results of all checks that ran. ``ok``: none failed."""

    model: str
    distribution: str
    version: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-serialisable."""
        return {**asdict(self), "results": [asdict(result) for result in self.results], "ok": self.ok}

    def __str__(self) -> str:
        return "\n".join(f"{result.check}: {result.status}: {result.detail}" for result in self.results)


def check(model: str, *, only: Iterable[str] = ()) -> Report:
    """Check an installed plugin; ``only`` names some of ``RULES``, which run with what they need.

    Raises ``PluginError`` for a model that is unknown or broken, ``OptionError`` for an unknown check.
    """
    examination = Examination(model)
    return examination.report(examination.each(only))


class Examination:
    """The checks of one plugin; each runs once, however often it's asked for."""

    def __init__(self, model: str) -> None:
        from zoo import registry

        self.entry = registry.find(model)
        self._results: dict[str, Result] = {}

    @cached_property
    def subject(self) -> Subject:
        from zoo.conformance.checks import Subject

        return Subject(self.entry)

    def each(self, only: Iterable[str] = ()) -> Iterator[Result]:
        """The results, as they are found. Raises ``OptionError`` for an unknown check, before the first of them."""
        names = list(only)
        for name in names:
            if name not in RULES:
                raise OptionError(f"there is no check {name!r}; {nearest(name, RULES)}")
        return (self.result(name) for name in RULES if not names or name in names)

    def report(self, results: Iterable[Result]) -> Report:
        return Report(self.entry.name, self.entry.distribution, self.entry.version, tuple(results))

    def result(self, name: str) -> Result:
        """What the check called ``name`` found."""
        if name not in self._results:
            rule = RULES[name]
            missed = [need for need in rule.needs if self.result(need).status != "passed"]
            start = time.perf_counter()
            status, detail = self._run(rule, missed)
            self._results[name] = Result(name, status, detail, round(time.perf_counter() - start, 3))
        return self._results[name]

    def _run(self, rule: Rule, missed: list[str]) -> tuple[Status, str]:
        if missed:
            return "skipped", f"needs the check {missed[0]!r} to pass"
        from zoo.conformance import checks

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries below the plugin; its own tests show them
                return "passed", getattr(checks, rule.test)(self.subject)
        except Skipped as reason:
            return "skipped", str(reason)
        except (Failed, ZooError) as reason:
            return "failed", " ".join(str(reason).split())
        except Exception as error:  # a stranger's code may fail in any way, and the other checks still have to run
            return "failed", f"{_where(error)}{type(error).__name__}: {' '.join(str(error).split())}"


def _where(error: BaseException) -> str:
    """The last line of the plugin, or whatever it called, that an unexpected error passed through."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
