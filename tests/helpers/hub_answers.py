"""The answers of the Hugging Face-shaped server: the hub's, and those of the storage to which it redirects."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.helpers.hub_faults import Fault
from tests.helpers.hub_repository import CHUNK_BYTES, Repo, info, tree

if TYPE_CHECKING:
    from tests.helpers.hub_server import HubServer


MOST_ENDLESS_BYTES = 64 << 20


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_port = True  # with the socket that keeps the port while the hub is offline

    def __init__(self, hub: HubServer, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.hub = hub

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    """One answer per connection, so that going offline cuts nothing that is idle."""

    server: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub
        self.hub._connections.add(self.connection)

    def finish(self) -> None:
        self.hub._connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.close_connection = True
        self.hub.note_request(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        self.answer(unquote(parts.path), parse_qs(parts.query))

    def answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        message = message or HTTPStatus(status).phrase
        self.reply(
            status, json.dumps({"error": message}).encode(), {**named, "X-Error-Message": message, **(headers or {})}
        )

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def send_file(self, repo: str, path: str, headers: Mapping[str, str]) -> None:
        """A file or a range of it; 416 for a range outside."""
        size = self.hub.repos[repo].files[path].size
        asked = self._range(size)
        fault = self.hub.fault(f"storage:{repo}/{path}", range(*(asked or (0, size))), max(1, size))
        if fault and fault.status:
            return self.refuse(fault.status, headers=fault.headers)
        asked = None if fault and fault.ignores_ranges else asked
        start, stop = asked or (0, size)
        if start >= stop and size:
            return self.refuse(416, headers={"Content-Range": f"bytes */{size}"})
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        every = {"Content-Length": str(stop - start), "Accept-Ranges": "bytes", "Connection": "close", **headers}
        for name, value in every.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_pieces(repo, path, range(start, stop), fault or Fault("", None))

    def _send_pieces(self, repo: str, path: str, wanted: range, fault: Fault) -> None:
        size = self.hub.repos[repo].files[path].size
        wrong = None if fault.damaged_at is None else fault.damaged_at % size
        stop = wanted.stop if fault.cut_at is None else min(wanted.stop, fault.cut_at)
        for at, piece in self.hub.pieces(repo, path, wanted.start, stop):
            if wrong is not None and at <= wrong < at + len(piece):
                piece = bytes(each ^ (offset == wrong) for offset, each in enumerate(piece, at))
            self.wfile.write(piece)

    def _range(self, size: int) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if match is None or match[0] == "bytes=-":
            return None
        if not match[1]:
            return max(0, size - int(match[2])), size
        return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)


class HubHandler(_Handler):
    def answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path):
            self._describe(path, match[1], match[2] or "revision", match[3] or "main", match[4] or "", query)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        else:
            self.refuse(404)

    def _describe(
        self, path: str, name: str, kind: str, revision: str, folder: str, query: Mapping[str, list[str]]
    ) -> None:
        if (repo := self._repository(path, name, revision)) is None:
            return
        described = tree(repo, folder, query) if kind == "tree" else info(repo, "blobs" in query)
        self.reply(200, json.dumps(described).encode(), {"Content-Type": "application/json"})

    def _repository(self, path: str, name: str, revision: str) -> Repo | None:
        """The repository, or None: the request is answered. As huggingface.co: 401 without a token, also for a
        repository that does not exist."""
        if self._fails(self.hub.fault(path)):
            return None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token not in repo.readers):
            self.refuse(
                *(
                    (404, "RepoNotFound", "Repository not found")
                    if self.token
                    else (401, "", "Invalid username or password.")
                )
            )
            return None
        if revision not in ("main", repo.revision):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo

    def _fails(self, fault: Fault | None) -> bool:
        if fault and fault.trickles:
            return self._trickle()
        if fault and fault.is_endless:
            self._send_endlessly(fault)
        elif fault and fault.status:
            self.refuse(fault.status, headers=fault.headers)
        return bool(fault and fault.status)

    def _trickle(self) -> bool:
        """Until the client leaves, or the hub goes offline."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def _send_endlessly(self, fault: Fault) -> None:
        """Until the client leaves, or it is clear that it does not."""
        self.send_response(fault.status or 0)
        for name, value in {"Content-Type": "text/plain", **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        while self.hub.endless_bytes < MOST_ENDLESS_BYTES:
            self.hub.endless_bytes += self.wfile.write(bytes(CHUNK_BYTES))

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if (repo := self._repository(f"{name}/{path}", name, revision)) is None:
            return
        commit = {"X-Repo-Commit": repo.revision}
        if repo.gated and self.token not in repo.readers:
            text = f"Access to model {name} is restricted."
            return self.refuse(403 if self.token else 401, "GatedRepo", text, commit)
        if path not in repo.files:
            return self.refuse(404, "EntryNotFound", "Entry not found", commit)
        file = repo.files[path]
        if not path.lower().endswith(".gguf"):
            return self.send_file(name, path, {**commit, "ETag": f'"{file.sha256[:40]}"'})
        self.reply(
            302,
            headers={
                **commit,
                "X-Linked-Size": str(file.size),
                "X-Linked-ETag": f'"{file.sha256}"',
                "Accept-Ranges": "bytes",
                "Location": f"{self.hub.storage}/{name}/{quote(path)}?signature=for-{file.sha256[:8]}",
            },
        )


class StorageHandler(_Handler):
    """Serves LFS files by signed addresses."""

    def answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        if self.token:
            self.hub.tokens_sent_to_storage.append(self.token)
        owner, name, file = path.lstrip("/").split("/", 2)
        repo = f"{owner}/{name}"
        if "signature" not in query:
            return self.refuse(403, message="Forbidden")
        self.send_file(repo, file, {"ETag": f'"{self.hub.repos[repo].files[file].sha256}"'})
