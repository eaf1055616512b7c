"""Runs a claim seed by seed, and goes on where an earlier run stopped."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo import progress, registry
from zoo.claims.records import load_result, record_path
from zoo.claims.types import Claim, ClaimResult
from zoo.errors import OptionError, PluginError
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
    kept, unless ``fresh``. ``jobs`` seeds run at the same time, each in its own process. ``quick`` writes
    ``<model>.quick.json`` and proves nothing.

    ``record`` also writes the result as ``claim.json`` beside the claim, once all seeds are done; seeds that stand
    there and were run with the same code, claim and torch aren't run again. It needs a checkout of the model.

    Raises ``PluginError`` when the model has no claim or the claim returns something else than numbers by arm,
    ``OptionError`` for unusable seeds or jobs, or where a record can't be written.
    """
    from zoo.claims.picture import figure  # with Pillow, which a card's words don't need

    plugin, claim = registry.part(model, "claim")
    if not isinstance(claim, Claim):
        raise PluginError(f"the claim of {plugin.name} is a {type(claim).__name__}, not a zoo.claims.Claim")
    wanted = _seeds(claim, seeds, quick)
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, not {jobs}")
    path = Path(out) / f"{plugin.name}{'.quick' if quick else ''}.json"
    home = _home(plugin, quick) if record else None
    environment, source = _environment(), _source(claim.run)
    results: dict[int, Mapping[str, Mapping[str, float]]] = {}
    seconds: dict[int, float] = {}
    for place in (path, *([home] if home else [])):
        if not place.is_file() or fresh:
            continue
        stored = load_result(place)
        same = stored.claim.to_dict() == claim.to_dict() and stored.source == source
        if same and stored.environment.get("torch") == environment["torch"]:
            results |= {seed: stored.results[seed] for seed in wanted if seed in stored.results}
            seconds |= {seed: stored.wall_seconds[seed] for seed in wanted if seed in stored.results}
            environment = dict(stored.environment) if results.keys() >= set(wanted) else environment

    def result() -> ClaimResult:
        complete = results.keys() >= set(wanted)
        return ClaimResult(plugin.name, claim, results, seconds, quick, complete, environment, source)

    for seed, arms, took in _run_seeds(claim, [s for s in wanted if s not in results], quick, jobs):
        results[seed], seconds[seed] = _checked(plugin.name, claim, arms), took
        write_file(path, _text(result()))
    final = result()
    write_file(path, _text(final))
    write_file(path.with_suffix(".png"), figure(final))
    if home:
        write_file(home, _text(final))
    return final


def _text(result: ClaimResult) -> str:
    return json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"


def _home(plugin: Plugin, quick: bool) -> Path:
    if quick:
        raise OptionError("a quick run proves nothing, so it isn't recorded; leave out --quick or --record")
    path = record_path(plugin)
    if path is None or not os.access(path.parent, os.W_OK):
        raise OptionError(
            f"the record of {plugin.name} lies in its package, which can't be written here; "
            "run from a checkout, or leave --record out"
        )
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


def _run_seeds(
    claim: Claim, seeds: list[int], quick: bool, jobs: int
) -> Iterator[tuple[int, Mapping[str, Mapping[str, float]], float]]:
    """Seed, results and seconds, as they are done."""
    jobs = min(jobs, len(seeds))
    if jobs <= 1:
        for place, seed in enumerate(seeds, start=1):
            progress.note(f"seed {seed} ({place} of {len(seeds)})")
            yield _one_seed(claim.run, seed, quick)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    threads = max(1, (os.cpu_count() or 1) // jobs)
    # spawn: a fork of a process that has used torch's threads may hang
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start_worker, initargs=(threads,)) as pool:
        waiting = [pool.submit(_one_seed, claim.run, seed, quick) for seed in seeds]
        try:
            for place, done in enumerate(as_completed(waiting), start=1):
                progress.note(f"seed {done.result()[0]} is done ({place} of {len(seeds)})")
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    progress.silence()  # several bars would overwrite each other


def _one_seed(run: str, seed: int, quick: bool) -> tuple[int, Any, float]:
    module, _, name = run.partition(":")
    function = getattr(import_module(module), name)
    start = time.perf_counter()
    arms = function(seed, quick=quick)
    return seed, arms, time.perf_counter() - start


def _checked(model: str, claim: Claim, arms: Any) -> dict[str, dict[str, float]]:
    """What a claim's run returned, as plain numbers; every arm and every compared metric must be there."""
    try:
        plain = {str(arm): {str(m): float(v) for m, v in scores.items()} for arm, scores in arms.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise PluginError(f"the claim of {model} must return numbers by arm and metric: {error}") from error
    if plain.keys() != claim.arms.keys():
        raise PluginError(f"the claim of {model} returned the arms {', '.join(plain)}, not {', '.join(claim.arms)}")
    for comparison in (claim.primary, *claim.secondary):
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
    return {**versions, "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


def _source(run: str) -> str:
    """A digest of the code beside the claim's function: other code, other numbers."""
    spec = find_spec(run.partition(":")[0])
    if spec is None or spec.origin is None:
        raise PluginError(f"the claim's run {run!r} leads nowhere")
    digest = hashlib.sha256()
    here = Path(spec.origin)
    package = (here.parent / "__init__.py").is_file()
    for path in sorted(here.parent.glob("*.py")) if package else [here]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
