"""How errors are told, where a token is asked for, and where a visitor is led."""

from __future__ import annotations

import logging

from fastapi import FastAPI, HTTPException, Request
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from zoo.errors import MissingExtraError, PluginError, WeightsError, ZooError
from zoo.serve import describe
from zoo.serve.desk import BusyError, CancelledError
from zoo.serve.desk import TimeoutError as TimedOutError
from zoo.serve.guard import COOKIE, TooMuch, TooSlow, matches
from zoo.serve.settings import Settings
from zoo.serve.uploads import TooLargeError

log = logging.getLogger("zoo.serve")


def code_of(error: BaseException | None) -> int:
    """The status of an error: what the sender can mend is 4xx."""
    kinds: tuple[tuple[type[ZooError], int], ...] = (
        (BusyError, 503), (CancelledError, 409), (TimedOutError, 504), (TooLargeError, 413), (MissingExtraError, 501),
        (WeightsError, 503),
    )  # fmt: skip
    for kind, code in kinds:
        if isinstance(error, kind):
            return code
    if isinstance(error, PluginError):
        return 404 if str(error).startswith("there is no model") else 503
    if not isinstance(error, ZooError) or (error.__cause__ is not None and type(error) is ZooError):
        return 500  # a fault of ours or of a plugin
    return 422


def errors(app: FastAPI) -> None:
    @app.exception_handler(ZooError)
    async def refused(request: Request, error: ZooError) -> Response:
        headers = {"retry-after": str(error.seconds)} if isinstance(error, BusyError) else {}
        code = code_of(error)
        if code == 500:
            log.error("%s", error, exc_info=error.__cause__ or error)
        return JSONResponse({"error": type(error).__name__, "detail": str(error)}, code, headers)

    @app.exception_handler(HTTPException)
    async def told(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": "RefusedError", "detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(TooMuch)
    async def too_much(request: Request, error: TooMuch) -> Response:
        return JSONResponse({"error": "TooLargeError", "detail": str(error)}, 413, {"connection": "close"})

    @app.exception_handler(TooSlow)
    async def too_slow(request: Request, error: TooSlow) -> Response:
        return JSONResponse({"error": "RefusedError", "detail": str(error)}, 408, {"connection": "close"})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        detail = "something went wrong in the server; who runs it finds the reason in its log"
        return JSONResponse({"error": "Error", "detail": detail}, 500)


def doors(app: FastAPI, settings: Settings, first: str) -> None:
    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(first)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/login", include_in_schema=False)
    async def login() -> Response:
        return HTMLResponse(describe.login_page())

    @app.post("/login", include_in_schema=False)
    async def enter(request: Request) -> Response:
        async with request.form(max_files=0, max_fields=2, max_part_size=1024) as form:
            given = str(form.get("token", "")).strip()
        if settings.token is not None and not matches(given, settings.token):
            return HTMLResponse(describe.login_page("That is not the token of this server."), 401)
        response = RedirectResponse("/", 303)
        if settings.token is not None:
            secure = request.url.scheme == "https"
            response.set_cookie(COOKIE, settings.token, httponly=True, samesite="strict", secure=secure)
        return response
