"""``zoo serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.errors import OptionError


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Serve these alone; all by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; beyond this machine a token is asked for.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=WEIGHTS", help="Weights of a model, as for zoo predict.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")] = "auto",
    memory: Annotated[str, typer.Option(help="Of all loaded models, such as 4GB; by default half of all.")] = "",
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are sent away.")] = 32,
    max_upload: Annotated[str, typer.Option(help="Size of one request, packed and unpacked.")] = "512MB",
    seconds: Annotated[float, typer.Option(help="Of work on one request.")] = 600,
    page: Annotated[bool, typer.Option(" /--no-page", help="Serve no page, only the API.")] = True,
    engine: Annotated[str, typer.Option(help="local, or ray to predict on a cluster.")] = "local",
    replicas: Annotated[int, typer.Option(min=1, help="With ray: how many predict at the same time.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="With ray: a cluster's address, or auto; else one of this machine is started.")
    ] = None,
) -> None:
    """Serve models over HTTP, with a page; the API is described at /docs."""
    from zoo import defaults, extras, registry, serve
    from zoo.cli.output import warn
    from zoo.serve import settings

    if engine not in ("local", "ray"):
        raise OptionError(f"there is no engine {engine!r}; choose local or ray")
    if engine == "local" and (replicas != 1 or address is not None):
        raise OptionError("--replicas and --address are of a cluster; add --engine ray")
    chosen = dict(one.partition("=")[::2] for one in weights or [])
    if missing := [name for name, spec in chosen.items() if not spec]:
        raise OptionError(f"--weights {missing[0]} names no weights; write --weights MODEL=WEIGHTS")
    known = set(map(str, models or registry.list_models()))
    chosen = {name: spec for name, spec in defaults.read().weights.items() if name in known} | chosen
    told = settings.Settings(
        host=host, port=port, token=settings.token_for(host), models=tuple(models or ()), weights=chosen,
        device=device, memory=settings.size(memory, "--memory") if memory else 0, queue=queue,
        upload=settings.size(max_upload, "--max-upload"), seconds=seconds, page=page,
    )  # fmt: skip
    if page and (lacks := extras.missing("ui")):
        warn(f"note: there is no page, which needs {lacks[0]}: pip install '{extras.DISTRIBUTION}[ui]'")
    if engine == "ray":
        from zoo.serve import replicas as on_ray

        on_ray.run(told, replicas, address, warn)
    else:
        serve.run(told, warn)
