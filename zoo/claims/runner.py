"""Runs a claim seed by seed on one thread, and goes on where an earlier run stopped."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo import progress, registry
from zoo.claims import budget, digests
from zoo.claims.records import load_result, record_path
from zoo.claims.result import ClaimResult
from zoo.claims.types import Claim
from zoo.errors import DataError, MissingExtraError, OptionError, PluginError
from zoo.plugin import Plugin
from zoo.storage import write_file

QUICK_SEEDS = 2
LIBRARIES = ("medimg-zoo", "torch", "numpy")


def reproduce(
    model: str | Plugin,
    *,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    jobs: int = 1,
    out: str | Path = "results/claims",
    fresh: bool = False,
    record: bool = False,
) -> ClaimResult:
    """Run the claim of ``model`` and write ``<model>.json`` and ``<model>.png`` to ``out``.

    ``seeds``: how many (the claim's first, then counting on) or which. The JSON grows seed by seed: a reproduction
    that was interrupted goes on where it stopped, and seeds that were run with the same code, claim and torch are
    kept, also those that this call doesn't ask for, unless ``fresh``. ``jobs`` seeds run at the same time, each in its
    own process; every seed runs on one thread, for sums depend on how they are divided. ``quick`` writes
    ``<model>.quick.json`` and proves nothing.

    ``record`` also writes the result of the claim's own seeds as ``claim.json`` beside the claim, once all are done;
    seeds that stand there and were run with the same code, claim and torch aren't run again. It needs a checkout of
    the model whose code is committed.

    Raises ``PluginError`` when the model has no claim or the claim returns something else than numbers by arm,
    ``OptionError`` for unusable seeds or jobs, or where a record can't be written.
    """
    from zoo.claims.picture import figure  # with Pillow, which a card's words don't need

    plugin, claim = _claim(model)
    wanted = _seeds(claim, seeds, quick)
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, not {jobs}")
    home = _home(plugin, claim, seeds, quick) if record else None
    path = Path(out) / f"{plugin.name}{'.quick' if quick else ''}.json"
    result = ClaimResult(plugin.name, claim, {}, {}, quick, environment=_environment())
    for place in () if fresh else (path, *([home] if home else [])):
        if place.is_file():
            result = _with(result, load_result(place))
    result = replace(
        result, modules=digests.imported(claim.run, result.modules), commit=result.commit or digests.commit(claim.run)
    )
    for one in _run_seeds(claim, [seed for seed in wanted if seed not in result.results], quick, jobs):
        result = replace(
            result,
            results={**result.results, one.seed: _checked(plugin.name, claim, one.arms)},
            wall_seconds={**result.wall_seconds, one.seed: one.seconds},
            cpu_seconds={**result.cpu_seconds, one.seed: one.cpu_seconds},
            budgets={**result.budgets, one.seed: one.budgets},
            modules={**one.modules, **result.modules},
        )
        write_file(path, _text(replace(result, complete=result.results.keys() >= set(wanted))))
    write_file(path, _text(result))
    write_file(path.with_suffix(".png"), figure(result))
    if home:
        result = _only(result, claim.seeds)
        write_file(home, _text(result))
    return result


def confirm(model: str | Plugin, beside: str | Path | None = None) -> ClaimResult:
    """Run the first seed of a recorded claim again; the record then says that today's code gives its numbers.

    Digests and words of the record are renewed only if all numbers are the same to the bit, times of the machine aside.
    Processors with other instructions round otherwise. There, run that seed by the record's own code first, in a
    checkout of its commit, and give the folder of the result as ``beside``: today's code must give these numbers.
    Raises ``DataError`` saying what differs, ``OptionError`` where there is no record to confirm, or where the result
    beside it isn't by the record's code.
    """
    plugin, claim = _claim(model)
    path = _home(plugin, claim, None, quick=False)
    again = f"run: zoo reproduce {plugin.name} --record"
    if not path.is_file():
        raise OptionError(f"{plugin.name} has no record to confirm; {again}")
    stored = load_result(path)
    if stored.claim.question != claim.question or sorted(stored.results) != sorted(claim.seeds):
        raise OptionError(f"the claim of {plugin.name} asks something else than its record; {again}")
    seed = claim.seeds[0]
    operators, _ = digests.operators()
    reference = stored if beside is None else _beside(stored, Path(beside), operators)
    (one,) = _run_seeds(claim, [seed], quick=False, jobs=1)
    found = _checked(plugin.name, claim, one.arms)
    if moved := _moved(reference.results[seed], found, claim.timed):
        before = reference.environment.get("operators", operators)
        moved += [f"operators are {operators}, not {before}"] if operators != before else []
        said = "the record says" if beside is None else "the record's code gives here"
        raise DataError(f"seed {seed} of {plugin.name} doesn't give what {said}: {'; '.join(moved)}; {again}")
    if (spent := reference.budgets.get(seed)) and spent != one.budgets:
        raise DataError(f"the arms of {plugin.name} spend {one.budgets} by now, not {spent} as recorded; {again}")
    here = digests.commit(claim.run)
    result = replace(stored, claim=claim, modules=one.modules, confirmed=here)
    if beside is None:
        result = replace(
            result,
            cpu_seconds={**stored.cpu_seconds, seed: one.cpu_seconds},
            environment={**stored.environment, "operators": operators},
        )
    else:
        result = replace(result, confirmed=f"{here}, by the record's own code on a processor with {operators}")
    write_file(path, _text(result))
    return result


def _beside(stored: ClaimResult, folder: Path, operators: str) -> ClaimResult:
    """What the record's code gives on this machine."""
    path = folder / f"{stored.model}.json"
    commit = (stored.confirmed or stored.commit).partition(",")[0]  # what it was confirmed beside may follow
    how = f"zoo reproduce {stored.model} --seeds 2 --out {folder} in a checkout of {commit}"
    if not path.is_file():
        raise OptionError(f"there is no {path}; run: {how}")
    result = load_result(path)
    if result.claim.question != stored.claim.question or stored.claim.seeds[0] not in result.results:
        raise OptionError(f"{path} lacks seed {stored.claim.seeds[0]} of the recorded claim; run: {how}")
    if not stored.modules.items() <= result.modules.items():
        raise OptionError(f"{path} isn't by the code of the record; run: {how}")
    if result.environment.get("operators") != operators:
        raise OptionError(f"{path} was made with operators {result.environment.get('operators')}, not {operators}")
    return result


def is_current(model: str | Plugin) -> bool:
    """Whether the recorded claim is what is claimed now, made by the code as it stands."""
    plugin, claim = _claim(model)
    path = record_path(plugin)
    if path is None or not path.is_file():
        return False
    stored = load_result(path)
    return stored.claim.to_dict() == claim.to_dict() and not stored.stale


def _moved(
    before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]], timed: Sequence[str]
) -> list[str]:
    """What differs, in words; the first few."""
    names = [(arm, metric) for arm in {**before, **now} for metric in {**before.get(arm, {}), **now.get(arm, {})}]
    pairs = [(*name, *(scores.get(name[0], {}).get(name[1]) for scores in (now, before))) for name in names]
    return [f"{metric} of {arm} is {value}, not {old}" for arm, metric, value, old in pairs
            if metric not in timed and value != old and not (value != value and old != old)][:4]  # fmt: skip


def _claim(model: str | Plugin) -> tuple[Plugin, Claim]:
    plugin, claim = registry.part(model, "claim")
    if not isinstance(claim, Claim):
        raise PluginError(f"the claim of {plugin.name} is a {type(claim).__name__}, not a zoo.claims.Claim")
    return plugin, claim


def _with(result: ClaimResult, stored: ClaimResult) -> ClaimResult:
    """With the seeds of a stored result, if they were run with the same code, claim and torch."""
    same = stored.claim.question == result.claim.question and stored.quick == result.quick
    here = {name: result.environment[name] for name in ("torch", "threads", "operators")}
    if not same or digests.stale(stored.modules) or not here.items() <= dict(stored.environment).items():
        return result
    return replace(
        result,
        results={**stored.results, **result.results},
        wall_seconds={**stored.wall_seconds, **result.wall_seconds},
        cpu_seconds={**stored.cpu_seconds, **result.cpu_seconds},
        budgets={**stored.budgets, **result.budgets},
        modules={**stored.modules, **result.modules},
        environment=dict(stored.environment),
        commit=stored.commit,
    )


def _only(result: ClaimResult, seeds: Sequence[int]) -> ClaimResult:
    """Without the seeds that the claim didn't name in advance."""
    return replace(
        result,
        results={seed: result.results[seed] for seed in sorted(seeds)},
        wall_seconds={seed: result.wall_seconds[seed] for seed in sorted(seeds)},
        cpu_seconds={seed: result.cpu_seconds[seed] for seed in sorted(seeds) if seed in result.cpu_seconds},
        budgets={seed: result.budgets[seed] for seed in sorted(seeds)},
    )


def _text(result: ClaimResult) -> str:
    return json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"


def _home(plugin: Plugin, claim: Claim, seeds: Any, quick: bool) -> Path:
    """Where the record goes. It's of the seeds that were named in advance, by code that anyone can get."""
    if quick:
        raise OptionError("a quick run proves nothing, so it isn't recorded; leave out --quick or --record")
    if seeds is not None:
        raise OptionError(f"a record is of the seeds that the claim of {plugin.name} names; leave out --seeds")
    path = record_path(plugin)
    if path is None or not os.access(path.parent, os.W_OK):
        raise OptionError(
            f"the record of {plugin.name} lies in its package, which can't be written here; "
            "run from a checkout, or leave --record out"
        )
    if changed := digests.uncommitted(claim.run):
        raise OptionError(f"a record names the commit that made it, but {changed[0]} isn't committed; commit it first")
    return path


def _seeds(claim: Claim, seeds: int | Sequence[int] | None, quick: bool) -> list[int]:
    if seeds is None:
        return list(claim.seeds[:QUICK_SEEDS] if quick else claim.seeds)
    if isinstance(seeds, int):
        if seeds < 1:
            raise OptionError(f"seeds must be at least 1, not {seeds}")
        chosen = list(claim.seeds[:seeds])
        while len(chosen) < seeds:
            chosen.append(max(chosen) + 1)
        return chosen
    if len(set(seeds)) != len(seeds) or not seeds:
        raise OptionError(f"seeds must be given once each, not {list(seeds)}")
    return list(seeds)


@dataclass(frozen=True)
class _Seed:
    """What one seed gave."""

    seed: int
    arms: Any
    seconds: float
    cpu_seconds: float
    budgets: dict[str, dict[str, int]]
    modules: dict[str, str]


def _run_seeds(claim: Claim, seeds: list[int], quick: bool, jobs: int) -> Iterator[_Seed]:
    """The seeds as they are done."""
    jobs = min(jobs, len(seeds))
    if jobs <= 1:
        for place, seed in enumerate(seeds, start=1):
            progress.note(f"seed {seed} ({place} of {len(seeds)})")
            yield _one_seed(claim.run, seed, quick)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # spawn: a fork of a process that has used torch's threads may hang
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=progress.silence) as pool:  # bars would overlap
        waiting = [pool.submit(_one_seed, claim.run, seed, quick) for seed in seeds]
        try:
            for place, done in enumerate(as_completed(waiting), start=1):
                progress.note(f"seed {done.result().seed} is done ({place} of {len(seeds)})")
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_seed(run: str, seed: int, quick: bool) -> _Seed:
    module, _, name = run.partition(":")
    function = getattr(import_module(module), name)
    known = digests.imported(run)
    with one_thread(), budget.ledger() as spent:
        start, began = time.perf_counter(), time.process_time()
        arms = function(seed, quick=quick)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - began
    budgets = {arm: asdict(one) for arm, one in spent.items()}
    return _Seed(seed, arms, seconds, cpu_seconds, budgets, digests.imported(run, known))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, and for the linear algebra of NumPy and SciPy."""
    import torch

    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:  # comes with scikit-learn
        raise MissingExtraError("reproducing a claim", "threadpoolctl", "train") from error
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _checked(model: str, claim: Claim, arms: Any) -> dict[str, dict[str, float]]:
    """What a claim's run returned, as plain numbers; every arm and every compared metric must be there."""
    try:
        plain = {str(arm): {str(m): float(v) for m, v in scores.items()} for arm, scores in arms.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise PluginError(f"the claim of {model} must return numbers by arm and metric: {error}") from error
    if plain.keys() != claim.arms.keys():
        raise PluginError(f"the claim of {model} returned the arms {', '.join(plain)}, not {', '.join(claim.arms)}")
    for comparison in claim.comparisons:
        for arm in (comparison.method, comparison.baseline):
            if comparison.metric not in plain[arm]:
                raise PluginError(f"the claim of {model} returned no {comparison.metric!r} for the arm {arm!r}")
    return plain


def _environment() -> dict[str, Any]:
    versions: dict[str, Any] = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "source"
    machine = f"{platform.system()} {platform.machine()}"
    operators, _ = digests.operators()
    return {
        **versions,
        "python": platform.python_version(),
        "machine": machine,
        "operators": operators,
        "threads": 1,
    }
