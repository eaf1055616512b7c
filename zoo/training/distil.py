"""``distil``: a client's own images become a synthetic set, in one file that it may send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo import registry
from zoo.data.synthetic import SyntheticSet
from zoo.errors import OptionError
from zoo.plugin import Plugin
from zoo.storage import user_path
from zoo.training.run import Run


@dataclass(frozen=True)
class Message:
    """A synthetic set as it lies on disk, ``bytes`` long with all that the file says about itself."""

    path: Path
    bytes: int
    content: SyntheticSet


def distil(
    model: str | Plugin,
    data: str,
    *,
    out: str | Path,
    preset: str = "paper",
    overrides: Mapping[str, str] | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> Message:
    """Condense the images of ``data``, all of which are one client's, to a synthetic set in the file ``out``.

    The same seed gives the same file. Where the set states splits, only its training part is used. Raises
    ``OptionError`` for a model that distils nothing, a wrong option or a name that isn't ``.safetensors``, and
    ``DataError`` for unusable data.
    """
    from zoo.data.check import require
    from zoo.data.sets import load_dataset

    plugin, training = registry.part(model, "training")
    if training.distil is None:
        raise OptionError(f"{plugin.name} distils no data set; gdd-fl does")
    path = user_path(out, OptionError)
    if path.suffix != ".safetensors" or path.is_dir():
        raise OptionError(f"a synthetic set is one .safetensors file; {path} is none, so write --out NAME.safetensors")
    recipe = training.configure(preset, overrides)
    cases = load_dataset(data, plugin=plugin)
    require(cases, plugin)
    stated = [i for i, entry in enumerate(cases.entries) if entry.split in (None, "train")]
    with Run(None, seed=seed, device=device) as run:
        made = training.distil(recipe, cases.subset(stated), run)
    return Message(path, made.write(path), made)
