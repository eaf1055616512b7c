"""The models of this machine behind HTTP: ``zoo serve``. Needs the extra ``serve``, the page the extra ``ui``.

``create_app(Settings(...))`` is the application, for a server of one's own; ``run`` starts uvicorn with it. Torch is
imported by the thread that predicts, after the server listens.
"""

from __future__ import annotations

from typing import Any

from zoo.serve.settings import Settings

__all__ = ["Settings", "create_app", "run"]


def create_app(settings: Settings | None = None) -> Any:
    """A FastAPI application. Raises ``PluginError`` for a model that isn't there, ``MissingExtraError``."""
    from zoo import extras

    extras.require(("serve",), "zoo serve")
    from zoo.serve.app import create

    return create(settings or Settings())


def run(settings: Settings, announce: Any = print) -> None:
    """Serve until interrupted. Raises ``OptionError`` for an address that can't be listened on."""
    from zoo import extras

    extras.require(("serve",), "zoo serve")
    from zoo.serve.listening import listen

    listen(create_app(settings), settings, announce)
