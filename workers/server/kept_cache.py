"""The KV cache of one llama-server over its end: restored before it is called ready, saved before it is stopped.

Both are done on a thread of their own, so that the server's goes on reading its log and obeying, and both have an end:
`is_at_work` is false from then on, whatever llama-server does.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from app.entities.launch import EngineFacts
from app.entities.server import Server
from app.use_cases.launch.saved_slots import SavedSlot, start_digest
from workers.catalog.model_headers import stamp_of
from workers.server.probe import all_slots, slot_on_disk
from workers.server.slot_files import SlotFiles, delete

log = logging.getLogger(__name__)

OPTION = "--slot-save-path"
RESTORE_SECONDS = 10.0  # of all slots; what is not restored by then is computed anew
LAST_WORDS_SECONDS = 1.0  # for who has asked a process that is gone


class KeptCaches:
    """Which servers have theirs kept."""

    def __init__(self, files: SlotFiles, engine: EngineFacts, env: Mapping[str, str]) -> None:
        self._files = files
        self._engine = engine
        self._env = env

    def of(self, server: Server, wake: Callable[[], None]) -> KeptCache | None:
        """The cache of a server that is about to be started; None: it is not to be kept, or cannot be. `wake` is called
        when something that was begun is done."""
        model = server.model
        if not model.keep_kv_cache:
            return None
        if OPTION not in self._engine.flags:
            log.info("kv cache not kept model=%s: this llama-server has no %s", model.name, OPTION)
            return None
        stamps = [stamp_of(path) for path in (model.path, model.launch.mmproj) if path]
        start = start_digest(model, self._engine, self._env, stamps)
        try:
            folder = self._files.folder(model.name)
            taken = self._files.take(model.name, start, server.slots)
        except OSError as error:
            log.warning("kv cache not kept model=%s: %s", model.name, error)
            return None
        return KeptCache(self._files, server, start, folder, taken, wake)


class KeptCache:
    """Of one server. `restores`, `save` and `give_back` are for its thread."""

    def __init__(
        self,
        files: SlotFiles,
        server: Server,
        start: str,
        folder: Path,
        taken: list[tuple[Path, int]],
        wake: Callable[[], None],
    ) -> None:
        self.folder = folder
        self._files = files
        self._server = server
        self._start = start
        self._token = secrets.token_hex(4)
        self._untried = taken  # written by one thread at a time: the server's, then the one that restores
        self._is_lost = False  # it gave no answer about one
        self._tokens: dict[int, int] = {}  # restored, by slot: /slots is silent about them until they are used
        self._wake = wake
        self._thread: threading.Thread | None = None
        self._is_done = True  # written by the server's thread before it begins something, then by the one that does it
        self._until = 0.0

    @property
    def is_at_work(self) -> bool:
        return not self._is_done and time.monotonic() < self._until

    @property
    def until(self) -> float:
        """When what is being done has to be done."""
        return self._until

    def restores(self, port: int, api_key: str) -> bool:
        """Whether the server, which has loaded, is not ready because of this. Begins it the first time."""
        if self._thread is None and self._untried:
            self._begin(RESTORE_SECONDS, lambda: self._restore(port, api_key))
        return self.is_at_work

    def save(self, port: int, api_key: str, seconds: float) -> None:
        """Begin to save what its idle slots hold."""
        self._begin(seconds, lambda: self._save(port, api_key))

    def took_it_down(self) -> bool:
        """Its process is gone: whether it was restoring then. Another attempt at this start goes without, for what was
        not tried is there for the next one."""
        if self._thread is None:
            return False
        self.give_back()
        self._tokens.clear()
        was_lost, self._is_lost = self._is_lost, False
        return was_lost

    def give_back(self) -> None:
        """Its process is gone: what was not tried is there for the next start."""
        if self._thread is not None:
            self._thread.join(LAST_WORDS_SECONDS)
        while self._untried:
            self._files.give_back(self._untried.pop()[0])

    # --- the thread of its own -----------------------------------------------------------------------------

    def _begin(self, seconds: float, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._run, args=(work,), name=f"cache-{self._server.id}", daemon=True)
        self._until, self._is_done = time.monotonic() + seconds, False
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # no thread left: then without
            self._is_done, self._until = True, time.monotonic()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            log.warning("kv cache of server=%d: %s", self._server.id, error)
        except Exception:
            log.exception("kv cache of server=%d", self._server.id)
        finally:
            self._is_done = True
            self._wake()

    def _seconds_left(self) -> float:
        return self._until - time.monotonic()

    def _restore(self, port: int, api_key: str) -> None:
        began, read_bytes = time.monotonic(), 0
        while self._untried:
            file, slot = self._untried.pop(0)  # tried once: one that takes the engine down must not do so for ever
            status, said = self._ask(port, api_key, slot, "restore", file)
            delete(file)
            if status == 200:
                self._tokens[slot] = _number(said, "n_restored")
                read_bytes += _number(said, "n_read")
                continue
            log.warning(
                "kv cache not restored server=%d model=%s slot=%d: %s",
                *(self._server.id, self._server.model.name, slot, _why(status, said)),
            )
            if status is None:  # it has ended, or may still be reading
                self._is_lost = True
                break
        self._say("restored", list(self._tokens.values()), read_bytes, began)

    def _save(self, port: int, api_key: str) -> None:
        began, tokens, written_bytes, at_ms, refused = time.monotonic(), [], 0, int(time.time() * 1000), ""
        slots = all_slots(port, api_key)
        if slots is None:
            refused = "it does not say what its slots hold"
        for slot, held in self._held(slots or ()):
            saved = SavedSlot(self._start, at_ms, self._token, slot)
            file = self._files.begin(self._server.model.name, saved, held * self._bytes_per_token)
            if file is None:
                continue
            status, said = self._ask(port, api_key, slot, "save", file)
            if self._files.finish(file, saved, is_whole=_number(said, "n_saved") > 0):
                tokens.append(_number(said, "n_saved"))
                written_bytes += _number(said, "n_written")
            refused = refused or ("" if status == 200 else _why(status, said))
            if status is None:
                break
        if refused:  # a slot with pictures in it, say, in builds that cannot write these
            log.warning("kv cache not saved server=%d model=%s: %s", self._server.id, self._server.model.name, refused)
        self._say("saved", tokens, written_bytes, began)

    def _ask(self, port: int, api_key: str, slot: int, action: str, file: Path) -> tuple[int | None, object]:
        seconds = self._seconds_left()
        return slot_on_disk(port, api_key, slot, action, file.name, seconds) if seconds > 0 else (None, None)

    def _held(self, slots: Iterable[Mapping[str, object]]) -> Iterator[tuple[int, int]]:
        """The idle slots that hold something and how many tokens, those used last first."""
        for each in sorted(slots, key=lambda each: -_number(each, "id_task", -1)):
            slot = _number(each, "id")
            # Builds that do not say how many: one at least, and then the file shows.
            tokens = _number(each, "n_prompt_tokens", 1) if "id_task" in each else self._tokens.get(slot, 0)
            if tokens and not each.get("is_processing"):
                yield slot, tokens

    @property
    def _bytes_per_token(self) -> int:
        """As far as it is known before it is written."""
        placement = self._server.placement
        memory = (*placement.estimate.devices, placement.estimate.host)
        return -(-sum(each.context_bytes for each in memory) // max(1, placement.ctx_size))

    def _say(self, done: str, tokens: list[int], size_bytes: int, began: float) -> None:
        """`tokens` by slot; nothing is said where there is none."""
        if not tokens:
            return
        log.info(
            "kv cache %s server=%d model=%s slots=%d tokens=%d mib=%.1f seconds=%.3f",
            *(done, self._server.id, self._server.model.name, len(tokens), sum(tokens)),
            *(size_bytes / 2**20, time.monotonic() - began),
        )


def _number(said: object, name: str, otherwise: int = 0) -> int:
    value = said.get(name) if isinstance(said, dict) else None
    return value if isinstance(value, int) else otherwise


def _why(status: int | None, said: object) -> str:
    error = said.get("error") if isinstance(said, dict) else None
    words = error.get("message") if isinstance(error, dict) else None
    return f"{status} {words}" if status else "no answer"
