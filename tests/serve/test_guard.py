"""Who may ask, from where, and how much: the token, other pages, hosts, sizes and slow senders."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.serve.toy import png
from zoo.errors import OptionError
from zoo.serve import Settings
from zoo.serve.guard import Guard, TooSlow
from zoo.serve.settings import is_loopback, size, token_for

TOKEN = "correct-horse-battery"


def test_only_this_machine_is_listened_to_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_SERVE_TOKEN", raising=False)
    assert Settings().host == "127.0.0.1"
    assert Settings().local
    for host in ("127.0.0.1", "localhost", "::1", "127.8.0.1"):
        assert is_loopback(host)
        assert token_for(host) is None
    for host in ("0.0.0.0", "::", "192.168.0.4", "example.org"):
        assert not is_loopback(host)
        drawn = token_for(host)
        assert drawn is not None
        assert len(drawn) >= 32
        assert drawn != token_for(host)
    monkeypatch.setenv("ZOO_SERVE_TOKEN", TOKEN)
    assert token_for("0.0.0.0") == token_for("127.0.0.1") == TOKEN
    for bad in ("short", "a; b" * 10, "\u00e9" * 20):
        monkeypatch.setenv("ZOO_SERVE_TOKEN", bad)
        with pytest.raises(OptionError, match="must be 16 or more letters"):
            token_for("127.0.0.1")


def test_sizes_as_people_write_them() -> None:
    assert [size(text, "x") for text in ("500MB", "4g", "1.5 GB", "1000000000")] == [
        5 * 10**8,
        4 * 10**9,
        1500000000,
        10**9,
    ]
    for text in ("", "much", "-1GB", "0", "nan", "inf"):
        with pytest.raises(OptionError, match="must be a size such as"):
            size(text, "--memory")


def test_a_token_is_asked_for_everywhere(serving) -> None:
    with serving(token=TOKEN) as client:
        for method, path in (
            ("GET", "/"), ("GET", "/models"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/jobs/x"),
            ("DELETE", "/jobs/x"), ("POST", "/models/toy-model/predict"), ("GET", "/nothing"),
        ):  # fmt: skip
            answer = client.request(method, path)
            assert answer.status_code == 401, path
            assert "asks for a token" in answer.json()["detail"]
            wrong = client.request(method, path, headers={"authorization": f"Bearer {TOKEN}x"})
            assert wrong.status_code == 401
        assert client.get("/health").status_code == 200
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/models", headers=right).status_code == 200
        sent = client.post("/models/toy-model/predict", files={"image": ("a.png", png())}, headers=right)
        assert sent.status_code == 200


def test_a_browser_is_led_to_the_door_and_let_in(serving) -> None:
    with serving(token=TOKEN) as client:
        led = client.get("/models", headers={"accept": "text/html"}, follow_redirects=False)
        assert (led.status_code, led.headers["location"]) == (303, "/login")
        assert '<label for="token">' in client.get("/login").text
        wrong = client.post("/login", data={"token": "guess"})
        assert wrong.status_code == 401
        assert 'role="alert"' in wrong.text
        assert not client.cookies
        entered = client.post("/login", data={"token": TOKEN}, follow_redirects=False)
        cookie = entered.headers["set-cookie"].lower()
        assert entered.status_code == 303
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/models").status_code == 200


def test_other_pages_are_refused_and_cors_is_off(serving) -> None:
    with serving() as client:
        for headers in (
            {"origin": "https://evil.example"}, {"origin": "http://127.0.0.1:9"}, {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
        ):  # fmt: skip
            answer = client.post("/models/toy-model/predict", files={"image": ("a.png", png())}, headers=headers)
            assert answer.status_code == 403, headers
            assert not [name for name in answer.headers if name.startswith("access-control")]
        preflight = client.options(
            "/models", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
        )
        assert preflight.status_code == 403
        own = client.get("/models", headers={"origin": "http://127.0.0.1"})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers


def test_another_name_that_leads_here_is_refused(serving) -> None:
    with serving() as client:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "a@127.0.0.1", ""):
            assert client.get("/models", headers={"host": host}).status_code == 403, host
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
            assert client.get("/models", headers={"host": host}).status_code == 200
    with serving(token=TOKEN) as client:  # who has the token may come by any name
        headers = {"host": "zoo.hospital.example", "authorization": f"Bearer {TOKEN}"}
        assert client.get("/models", headers=headers).status_code == 200


def test_no_answer_may_be_framed_sniffed_or_kept(serving) -> None:
    with serving() as client:
        headers = client.get("/models").headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_what_is_too_large_is_refused_stated_or_not(serving) -> None:
    with serving(upload=100_000) as client:
        ask = {"url": "/models/toy-model/predict", "files": {"image": ("a.png", bytes(3_000_000))}}
        stated = client.post(**ask)
        assert stated.status_code == 413
        assert "at most 0 MB" in stated.json()["detail"]
        body = client.build_request("POST", **ask).read()

        def pieces():
            for start in range(0, len(body), 65536):
                yield body[start : start + 65536]

        kind = client.build_request("POST", **ask).headers["content-type"]
        unstated = client.post(ask["url"], content=pieces(), headers={"content-type": kind})
        assert unstated.status_code == 413
        assert client.post(ask["url"], files={"image": ("a.png", bytes(200_000))}).status_code == 413
        many = [("image", (f"{number}.png", png())) for number in range(4)]
        assert client.post(ask["url"], files=many).status_code == 200
    with serving(files=3) as client:
        assert client.post(ask["url"], files=many).status_code in (400, 413)


def test_a_slow_sender_is_given_up(listening) -> None:
    with listening(idle=0.5) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            head = f"POST /models/toy-model/predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n"
            sock.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
            start = time.monotonic()
            assert b" 408 " in sock.recv(4096).splitlines()[0]
            assert time.monotonic() - start < 10


def test_a_body_that_is_complete_may_be_waited_on() -> None:
    async def app(scope, receive, send) -> None:
        assert (await receive())["body"] == b"all"
        with pytest.raises(asyncio.TimeoutError):  # the guard itself waits on
            await asyncio.wait_for(receive(), 0.3)

    async def run() -> None:
        messages = [{"type": "http.request", "body": b"all", "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await asyncio.sleep(60)

        async def send(message) -> None:
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": "/health", "headers": [(b"host", b"localhost")]}
        await Guard(app, Settings(idle=0.1))(scope, receive, send)

    asyncio.run(run())
    assert issubclass(TooSlow, Exception)
