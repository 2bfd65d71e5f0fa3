"""A Hugging Face-shaped server on loopback, for HF_ENDPOINT: model info, trees, /resolve/, and the storage behind it.

    with HubServer() as hub:
        hub.add("org/model-GGUF", {"model-Q4_K_M.gguf": a_file()})
        hub.fail(429, path="model-Q4_K_M.gguf", times=1, headers={"Retry-After": "1"})
        ...
        assert hub.bytes_served("org/model-GGUF", "model-Q4_K_M.gguf") == 0

Files ending in .gguf are LFS files: as on huggingface.co, /resolve/ redirects to another origin (a second port), which
must not be sent the token. By hand: `python -m tests.helpers.hub_server FOLDER`, with FOLDER/user/repo/FILE.
"""

from __future__ import annotations

import argparse
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.helpers.hub_answers import HubHandler, Server, StorageHandler
from tests.helpers.hub_faults import Fault
from tests.helpers.hub_repository import CHUNK_BYTES, Content, Repo, content


@dataclass(frozen=True)
class Served:
    """Bytes of a file that were sent, from `start` to before `stop`."""

    repo: str
    path: str
    start: int
    stop: int


def _reserved_port() -> socket.socket:
    """A socket that keeps a port from other programs: it does not listen, so connections to it are refused."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


class HubServer:
    """Start it with `with`. Attributes may be set while it runs: everything is read anew for each request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.bytes_per_second: float | None = None  # of each answer with a file
        self.requests: list[str] = []  # "HEAD /user/repo/resolve/main/file"
        self.served: list[Served] = []
        self.endless_bytes = 0  # that were sent of bodies without an end
        self.tokens_sent_to_storage: list[str] = []  # must stay empty
        self._faults: list[Fault] = []
        self._held: tuple[str, int] | None = None
        self._changed = threading.Condition()  # guards all of the above while requests run
        self._servers: list[ThreadingHTTPServer] = []
        self._reserved = [_reserved_port(), _reserved_port()]
        self._ports = [each.getsockname()[1] for each in self._reserved]
        self._connections: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.go_offline()
        for each in self._reserved:
            each.close()

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def add(self, name: str, files: Mapping[str, bytes | str | Path | Content], **options: Any) -> Repo:
        """Publish a repository, or a new revision of it. `options`: those of Repo."""
        self.repos[name] = Repo(name, {path: content(each) for path, each in files.items()}, **options)
        return self.repos[name]

    def fail(
        self,
        status: int,
        path: str = "",
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
        is_endless: bool = False,
    ) -> None:
        """Answer with this status. `path`: a regular expression for "user/repo/file", "/api/models/user/repo..." or,
        only at the storage, "storage:user/repo/file"."""
        self._faults.append(Fault(path, times, status, headers or {}, is_endless=is_endless))

    def cut(self, path: str, at: int, times: int | None = 1) -> None:
        """Close the connection of an answer that comes to this offset of the file."""
        self._faults.append(Fault(path, times, cut_at=at))

    def damage(self, path: str, times: int | None = 1, at: int = -1) -> None:
        """Send a wrong byte at this offset: the last one of the file, so that its header stays readable."""
        self._faults.append(Fault(path, times, damaged_at=at))

    def trickle(self, path: str) -> None:
        """Send the head of an answer byte by byte, without an end."""
        self._faults.append(Fault(path, None, trickles=True))

    def ignore_ranges(self, path: str = "") -> None:
        """Answer a range request with the whole file, as some caches do."""
        self._faults.append(Fault(path, None, ignores_ranges=True))

    def hold(self, path: str, after: int) -> None:
        """Send so many bytes of the files that match and wait there for `release()`."""
        self._held = (path, after)

    def release(self) -> None:
        with self._changed:
            self._held = None
            self._changed.notify_all()

    def repair(self) -> None:
        """End all faults."""
        self._faults.clear()
        self.bytes_per_second = None
        self.release()

    def go_offline(self) -> None:
        """Refuse connections and cut the open ones, until `come_back()` at the same addresses."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        self._servers = [Server(self, self._ports[0], HubHandler), Server(self, self._ports[1], StorageHandler)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), name="hub", daemon=True).start()

    def bytes_served(self, repo: str = "", path: str = "") -> int:
        """Bytes of one file, of one repository, or of all files that were sent."""
        return sum(each.stop - each.start for each in self._of(repo, path))

    def furthest_byte(self, repo: str, path: str = "") -> int:
        """The end of the last byte of these files that was sent: at most the header's size if no weights were."""
        return max((each.stop for each in self._of(repo, path)), default=0)

    def _of(self, repo: str, path: str) -> list[Served]:
        with self._changed:
            return [each for each in self.served if repo in ("", each.repo) and path in ("", each.path)]

    # What the handlers use.

    def note_request(self, line: str) -> None:
        with self._changed:
            self.requests.append(line)

    def fault(self, path: str, wanted: range = range(0), size: int = 1) -> Fault | None:
        """The fault that this request meets; `wanted`: bytes of a file of this size."""
        with self._changed:
            return next((fault for fault in self._faults if fault.take(path, wanted, size)), None)

    def pieces(self, repo: str, path: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """The bytes of a file with their offsets, at the set rate; waits where `hold` says."""
        at, file, began = start, self.repos[repo].files[path], time.monotonic()
        while at < stop:
            end = min(stop, at + self._piece_bytes())
            if (held := self._held) and re.search(held[0], f"{repo}/{path}"):
                end = min(end, held[1]) if at < held[1] else end
                if at >= held[1]:
                    self._wait_for_release(held)
            with self._changed:  # before they are sent: a client that has them finds them counted
                self.served.append(Served(repo, path, at, end))
            yield at, file.read(at, end - at)
            at = end
            if self.bytes_per_second:
                time.sleep(max(0.0, began + (at - start) / self.bytes_per_second - time.monotonic()))

    def _piece_bytes(self) -> int:
        """Ten pieces a second at a slow rate."""
        return max(1, min(CHUNK_BYTES, int(self.bytes_per_second / 10))) if self.bytes_per_second else CHUNK_BYTES

    def _wait_for_release(self, held: tuple[str, int]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held != held, timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve FOLDER/user/repo/FILE as a Hugging Face hub on loopback.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes-per-second", type=float)
    options = parser.parse_args()
    with HubServer() as hub:
        hub.bytes_per_second = options.bytes_per_second
        for folder in sorted(each for each in options.folder.glob("*/*") if each.is_dir()):
            files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
            hub.add(str(folder.relative_to(options.folder)), files)
            print(f"{folder.relative_to(options.folder)}: {len(files)} files")
        print(f"export HF_ENDPOINT={hub.endpoint}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
