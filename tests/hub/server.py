"""A Hub on loopback for tests: the part of the Hugging Face Hub's protocol that pushing and pulling models uses.

Written from the requests that the ``huggingface_hub`` client makes. Large files live behind signed addresses on another
host name, as on the real Hub, so that a test can see whether a token leaks there. Everything is in memory and bounded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MAX_BODY, MAX_STORE = 64 << 20, 256 << 20
OWNER, READER, NARROW, UNKNOWN = (f"hf_{name}{'0' * 24}" for name in ("owner", "reader", "narrow", "unknown"))
"""Tokens: may write to the organisation ``org``; only read; valid but without access to it; not valid at all."""


@dataclass
class File:
    content: bytes
    large: bool  # behind a pointer, as git-lfs does it

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        content = self.content
        if self.large:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id


@dataclass
class Repo:
    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, File], message: str = "") -> str:
        text = json.dumps([ref, len(self.commits), message, sorted((n, f.etag) for n, f in files.items())])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.refs[ref] = dict(files), message, sha
        return sha


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that match; ``after`` lets some pass first.

    ``status``: refuse with it. ``cut``: send or read this many bytes of the body, then drop the connection.
    ``hold``: wait for this event before going on. ``change``: alter the body that is sent. ``headers`` replace those of
    the answer.
    """

    method: str
    path: str
    times: int = 1
    after: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: threading.Event | None = None
    change: Callable[[bytes], bytes] | None = None


@dataclass
class Request:
    method: str
    path: str
    token: str | None
    range: str | None
    host: str = ""
    agent: str = ""


class Hub:
    """The state of the Hub and its server; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"

    def __enter__(self) -> Hub:
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self.faults:
            if fault.hold:
                fault.hold.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False, ref: str = "main") -> str:
        """Put files into a repository without the protocol; returns the commit."""
        repo = self.repos.setdefault(name, Repo(private))
        kept = {path: File(content, path.endswith(".safetensors")) for path, content in files.items()}
        self.store |= {file.sha256: file.content for file in kept.values() if file.large}
        return repo.commit(ref, kept)

    def files(self, name: str, ref: str = "main") -> dict[str, bytes]:
        repo = self.repos[name]
        return {path: file.content for path, file in repo.commits[repo.refs[ref]].items()}

    def fault(self, request: Request) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == request.method and re.search(fault.path, request.path) and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, path: str) -> int:
        return sum(r.method == method and bool(re.search(path, r.path)) for r in self.requests)


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", body: Any = None) -> None:
        self.status, self.code, self.message, self.body = status, code, message, body


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    timeout = 30
    fault: Fault | None = None

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        request = Request(
            self.command,
            url.path,
            bearer,
            self.headers.get("Range"),
            self.headers.get("Host", ""),
            self.headers.get("User-Agent", ""),
        )
        with self.hub.lock:
            self.hub.requests.append(request)
        self.fault = self.hub.fault(request)
        try:
            body = self._read()
            if self.fault and self.fault.hold:
                self.fault.hold.wait(60)
            if self.fault and self.fault.status:
                raise _Refusal(self.fault.status, message=self.fault.headers.get("X-Error-Message", "fault"))
            with self.hub.lock:
                answer = self._route(path, url.path, parse_qs(url.query), body)
            if self.fault:
                answer = (answer[0], {**answer[1], **self.fault.headers}, answer[2])
            self._send(*answer)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            headers = {name: value for name, value in headers.items() if value}
            if self.fault:
                headers |= self.fault.headers
            self._send(refusal.status, headers, refusal.body or {"error": refusal.message})
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if sum(map(len, parts)) > MAX_BODY:
                    raise _Refusal(413)
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self.close_connection = True
            raise _Refusal(413)
        if self.command == "PUT" and self.fault and self.fault.cut is not None:
            self.rfile.read(min(self.fault.cut, length))
            self._drop()
        return self.rfile.read(length)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()
        raise ConnectionResetError

    def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self.fault and self.fault.change and self.command == "GET":
            content = self.fault.change(content)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut is not None and self.command == "GET":
            self.wfile.write(content[: self.fault.cut])
            self.wfile.flush()
            self._drop()
        self.wfile.write(content)

    def _route(self, path: str, raw: str, query: dict[str, list[str]], body: bytes) -> tuple[int, dict[str, str], Any]:
        method = self.command
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            return self._put(match[1], body) if method == "PUT" else self._stored(match[1])
        token = self._token()
        if path == "/api/whoami-v2":
            if token is None:
                raise _Refusal(401, message="Invalid username or password.")
            return 200, {}, {"type": "user", "name": token[3:9], "orgs": [{"name": "org"}]}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self._repo(match[1], token, write=token != READER)  # a reader may upload for a pull request
            return self._batch(json.loads(body))
        if path == "/api/models":
            return self._search(query)
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+?)(?:/(\w+)(?:/(.*))?)?", raw):
            return self._api(match[1], match[2], unquote(match[3] or ""), query, body, token)
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", raw):
            return self._resolve(match[1], unquote(match[2]), unquote(match[3]), token)
        raise _Refusal(404, message=f"no such page: {path}")

    def _search(self, query: dict[str, list[str]]) -> tuple[int, dict[str, str], Any]:
        """Public repositories whose tags, which the card's metadata give, hold every filter; two to a page."""
        import yaml

        found = []
        for name, repo in self.hub.repos.items():
            card = repo.commits[repo.refs["main"]].get("README.md")
            block = re.match(r"\s*---\n(.*?)\n---", card.content.decode() if card else "", re.DOTALL)
            metadata = yaml.safe_load(block[1]) if block else {}
            tags = [*metadata.get("tags", []), *filter(None, [metadata.get("library_name")])]
            if not repo.private and set(query.get("filter", [])) <= set(tags):
                found.append({"id": name, "tags": tags, "private": False, "downloads": len(repo.commits),
                              "lastModified": "2026-01-02T03:04:05.000Z", "sha": repo.refs["main"]})  # fmt: skip
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + 2 < len(found):
            again = "&".join(f"{key}={value}" for key, values in query.items() if key != "cursor" for value in values)
            headers["Link"] = f'<{self.hub.endpoint}/api/models?{again}&cursor={start + 2}>; rel="next"'
        return 200, headers, found[start : start + 2]

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (None, OWNER, READER, NARROW):
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        return token

    def _repo(self, name: str, token: str | None, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (token is None and (repo.private or write)):
            # As the real Hub: without a token, a missing repository looks like a private one.
            raise _Refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        if token == NARROW and (repo.private or write):
            raise _Refusal(403, message="Your token doesn't have the required permissions")
        if write and token != OWNER:
            raise _Refusal(403, message="You don't have the required permissions to write")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        sha = repo.refs.get(revision) or (revision if revision in repo.commits else None)
        if sha is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _validate(self, sent: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        import yaml

        block = re.match(r"\s*---\n(.*?)\n---", sent["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(block[1]) if block else None
        except yaml.YAMLError:
            metadata = None
        if not isinstance(metadata, dict):
            raise _Refusal(400, message="invalid", body={"errors": [{"message": "no YAML metadata"}], "warnings": []})
        return 200, {}, {"errors": [], "warnings": []}

    def _create(self, sent: dict[str, Any], token: str | None) -> tuple[int, dict[str, str], Any]:
        if token is None:
            raise _Refusal(401, message="Invalid username or password.")
        if token != OWNER or sent.get("organization") != "org":
            raise _Refusal(403, message="You don't have the rights to create a model under this namespace")
        name = f"org/{sent['name']}"
        if name in self.hub.repos:
            url = f"{self.hub.endpoint}/{name}"
            raise _Refusal(409, message="You already created this model repo", body={"error": "exists", "url": url})
        repo = self.hub.repos[name] = Repo(private=sent.get("visibility") == "private" or bool(sent.get("private")))
        repo.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")
        return 200, {}, {"url": f"{self.hub.endpoint}/{name}", "name": name}

    def _batch(self, sent: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        objects = []
        for item in sent["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.store:
                href = f"{self.hub.storage}/storage/{item['oid']}?signature=abc"
                answer["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(answer)
        return 200, {"Content-Type": "application/vnd.git-lfs+json"}, {"transfer": "basic", "objects": objects}

    def _put(self, oid: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refusal(400, message="content does not match its hash")
        if sum(map(len, self.hub.store.values())) + len(body) > MAX_STORE:
            raise _Refusal(507)
        self.hub.store[oid] = body
        return 200, {"ETag": f'"{oid}"'}, b""

    def _api(
        self, name: str, what: str | None, rest: str, query: dict[str, list[str]], body: bytes, token: str | None
    ) -> tuple[int, dict[str, str], Any]:
        write = what in ("preupload", "commit", "branch") and "create_pr" not in query
        repo = self._repo(name, token, write=write)
        if what in (None, "revision"):
            return self._info(name, repo, self._commit_of(repo, rest or "main"), "blobs" in query)
        if what == "tree":
            return self._tree(name, repo, self._commit_of(repo, rest), query)
        if what == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
            return 200, {}, {"branches": branches, "tags": [], "converts": []}
        if what == "branch":
            if rest in repo.refs:
                raise _Refusal(409, message="Reference already exists")
            repo.refs[rest] = self._commit_of(repo, json.loads(body or b"{}").get("startingPoint", "main"))
            return 200, {}, {}
        if what == "preupload":
            present = repo.commits[self._commit_of(repo, rest)]
            modes = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": present[item["path"]].etag if item["path"] in present else None,
                }
                for item in json.loads(body)["files"]
            ]
            return 200, {}, {"files": modes}
        if what == "commit":
            return self._commit(name, repo, rest, body, "create_pr" in query)
        raise _Refusal(404)

    def _info(self, name: str, repo: Repo, sha: str, blobs: bool) -> tuple[int, dict[str, str], Any]:
        siblings = []
        for path, file in repo.commits[sha].items():
            entry: dict[str, Any] = {"rfilename": path}
            if blobs:
                entry |= {"size": len(file.content), "blobId": file.blob_id}
                if file.large:
                    entry["lfs"] = {"sha256": file.sha256, "size": len(file.content), "pointerSize": 134}
            siblings.append(entry)
        return 200, {}, {"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}

    def _tree(self, name: str, repo: Repo, sha: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], Any]:
        entries = []
        for path, file in sorted(repo.commits[sha].items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
            if file.large:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
            entries.append(entry)
        start, page = int(query.get("cursor", ["0"])[0]), 3  # short pages, so that clients must follow the links
        headers = {}
        if start + page < len(entries):
            more = f"{self.hub.endpoint}/api/models/{name}/tree/{sha}?recursive=True&cursor={start + page}"
            headers["Link"] = f'<{more}>; rel="next"'
        return 200, headers, entries[start : start + page]

    def _commit(
        self, name: str, repo: Repo, ref: str, body: bytes, pull_request: bool
    ) -> tuple[int, dict[str, str], Any]:
        head = self._commit_of(repo, ref)
        files, summary = dict(repo.commits[head]), ""
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                summary = value["summary"]
                if value.get("parentCommit", head) != head:
                    raise _Refusal(412, message="A commit has happened since")
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.store:
                    raise _Refusal(400, message="the object was not uploaded")
                files[value["path"]] = File(self.hub.store[value["oid"]], True)
            elif key == "deletedFile" and files.pop(value["path"], None) is None:
                raise _Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
        number = 1 + sum(existing.startswith("refs/pr/") for existing in repo.refs)
        sha = repo.commit(f"refs/pr/{number}" if pull_request else ref, files, summary)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{name}/discussions/{number}"
        return 200, {}, answer

    def _resolve(self, name: str, revision: str, path: str, token: str | None) -> tuple[int, dict[str, str], Any]:
        repo = self._repo(name, token)
        sha = self._commit_of(repo, revision)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        file = repo.commits[sha].get(path)
        if file is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        headers["ETag"] = f'"{file.etag}"'
        if not file.large:
            return 200, headers, file.content
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        return 302, headers | {"Location": f"{self.hub.storage}/storage/{file.sha256}?signature=abc"}, b""

    def _stored(self, oid: str) -> tuple[int, dict[str, str], Any]:
        content = self.hub.store.get(oid)
        if content is None:
            raise _Refusal(404)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return 200, {"Accept-Ranges": "bytes"}, content
        first, last = int(match[1]), int(match[2] or len(content) - 1)
        if first >= len(content):
            raise _Refusal(416)
        last = min(last, len(content) - 1)
        return 206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1]
