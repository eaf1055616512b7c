"""What stands before every request: whose page it comes from, whether it may, and how much it may send."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from zoo.serve.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

COOKIE = "zoo-token"
OPEN = ("/health", "/login")
"""Asked for without a token."""

# Nothing is fetched from elsewhere, and no other page may frame ours. The page's and the documentation's own scripts
# stand in their HTML.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_UNSTORED = (b"cache-control", b"no-store")


class TooMuch(Exception):
    """The body is larger than the server takes."""


class TooSlow(Exception):
    """The sender stopped in the middle."""


class Guard:
    """ASGI middleware around the whole application, the page included."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _refuse(scope, send, *refused)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                kept = [pair for pair in message.get("headers", []) if not _unwanted(pair[0])]
                stated = any(name.lower() == b"cache-control" for name, _ in kept)
                message = {**message, "headers": [*kept, *_HEADERS, *([] if stated else [_UNSTORED])]}
            await send(message)

        try:
            await self.app(scope, self._bounded(headers, receive), sending)
        except (TooMuch, TooSlow) as error:
            if not started:
                await _refuse(scope, send, 413 if isinstance(error, TooMuch) else 408, str(error))

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "")
        if self.settings.token is None and not is_loopback(_hostname(host)):
            return 403, f"this server is reached as {self.settings.host} alone"  # another name that was led to us
        origin = headers.get(b"origin")
        if origin not in (None, "null") and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "requests from pages of other servers are refused"
        if origin == "null" or (headers.get(b"sec-fetch-site") == "cross-site" and scope.get("method") != "GET"):
            return 403, "requests from pages of other servers are refused"
        if scope["path"] not in OPEN and not self._allowed(headers):
            return 401, "this server asks for a token: send it as Authorization: Bearer TOKEN, or open /login"
        if scope["type"] == "http" and int(_number(headers.get(b"content-length"))) > self.settings.upload + (1 << 20):
            return 413, _too_much(self.settings)
        return None

    def _allowed(self, headers: dict[bytes, str]) -> bool:
        if self.settings.token is None:
            return True
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        tokens = [given.strip()] if scheme.lower() == "bearer" else []
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        tokens += [cookie.value] if cookie is not None else []
        return any(matches(token, self.settings.token) for token in tokens)

    def _bounded(self, headers: dict[bytes, str], receive: Receive) -> Receive:
        count, complete = 0, False

        async def bounded() -> Message:
            nonlocal count, complete
            if complete:
                return await receive()  # waits until the sender goes
            try:
                message = await asyncio.wait_for(receive(), self.settings.idle)
            except asyncio.TimeoutError:
                raise TooSlow(f"nothing came for {self.settings.idle:g} seconds; send it again") from None
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                count += len(message.get("body", b""))
                if count > self.settings.upload + (1 << 20):
                    raise TooMuch(_too_much(self.settings))
            return message

        return bounded


def matches(given: str, token: str) -> bool:
    """Whether two tokens are alike, in a time that doesn't tell how far."""
    return secrets.compare_digest(given.encode(errors="replace"), token.encode())


def _too_much(settings: Settings) -> str:
    return f"this server takes at most {settings.upload / 1e6:,.0f} MB at a time; send less"


def _number(text: str | None) -> str:
    return text if text and text.isdecimal() and len(text) < 16 else "0"


def _hostname(host: str) -> str:
    return urlsplit(f"//{host}").hostname or "" if host.isprintable() and "@" not in host else ""


def _unwanted(name: bytes) -> bool:
    name = name.lower()
    return name.startswith(b"access-control-") or name in {own for own, _ in _HEADERS}


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"error": "RefusedError", "detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
        accepted = dict(scope["headers"]).get(b"accept", b"")
        if scope["method"] == "GET" and b"text/html" in accepted:
            status, body = 303, b""
            headers = [(b"location", b"/login"), (b"content-length", b"0"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
