"""The KV cache of one llama-server across restarts: restored before it is reported ready, saved before it is stopped.

Both run on a thread of their own, while the server's thread keeps reading the log and handling orders. Both have a
deadline: `is_busy` is false after it, whatever llama-server does.
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
from workers.server.probe import read_slots, save_or_restore_slot
from workers.server.slot_files import SlotFiles, remove

log = logging.getLogger(__name__)

OPTION = "--slot-save-path"
RESTORE_SECONDS = 10.0  # for all slots; prompts of slots not restored by then are computed again
JOIN_SECONDS = 1.0  # for a thread that waits for an answer of a process that has exited


class KeptCaches:
    """Decides which servers keep their KV cache."""

    def __init__(self, files: SlotFiles, env: Mapping[str, str]) -> None:
        self._files = files
        self._env = env

    def prepare(self, server: Server, engine: EngineFacts, wake: Callable[[], None]) -> KeptCache | None:
        """The cache of a server that is about to start; None if it is not kept, by the settings or because the engine
        or the disk does not allow it. `wake` is called when a restore or save has ended."""
        model = server.model
        if not model.keep_kv_cache:
            return None
        if OPTION not in engine.flags:
            log.info("kv cache not kept model=%s: this llama-server has no %s", model.name, OPTION)
            return None
        stamps = [stamp_of(path) for path in (model.path, model.launch.mmproj) if path]
        start = start_digest(model, engine, self._env, stamps)
        try:
            folder = self._files.folder(model.name)
            taken = self._files.take(model.name, start, server.slots)
        except OSError as error:
            log.warning("kv cache not kept model=%s: %s", model.name, error)
            return None
        return KeptCache(self._files, server, start, folder, taken, wake)


class KeptCache:
    """The cache of one server. Its methods are called by the server's thread."""

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
        self._untried = taken  # written by one thread at a time: the server's, then the restoring one
        self._was_unanswered = False  # a restore
        self._tokens: dict[int, int] = {}  # restored, by slot: /slots omits them until they are used
        self._wake = wake
        self._thread: threading.Thread | None = None
        self._is_done = True  # set to False by the server's thread, to True by the working thread
        self.deadline = 0.0  # of the restore or save, monotonic seconds

    @property
    def is_busy(self) -> bool:
        """Whether a restore or save is running."""
        return not self._is_done and time.monotonic() < self.deadline

    def restore(self, port: int, api_key: str) -> bool:
        """Call when the model is loaded, until it returns False: the first call begins the restore, and the server is
        not ready while it runs."""
        if self._thread is None and self._untried:
            self._begin(RESTORE_SECONDS, lambda: self._restore(port, api_key))
        return self.is_busy

    def save(self, port: int, api_key: str, seconds: float) -> None:
        """Begin to save the idle slots."""
        self._begin(seconds, lambda: self._save(port, api_key))

    def ended_in_restore(self) -> bool:
        """Call when the process has exited before it was ready: whether a restore was running. A new attempt then
        starts with an empty cache; files not tried yet are kept for the next start."""
        if self._thread is None:
            return False
        self.return_untried()
        self._tokens.clear()
        was_unanswered, self._was_unanswered = self._was_unanswered, False
        return was_unanswered

    def return_untried(self) -> None:
        """Call when the process has exited: files that were not tried are kept for the next start."""
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        while self._untried:
            self._files.put_back(self._untried.pop()[0])

    # --- the working thread -----------------------------------------------------------------------------

    def _begin(self, seconds: float, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._run, args=(work,), name=f"cache-{self._server.id}", daemon=True)
        self.deadline, self._is_done = time.monotonic() + seconds, False
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # no thread left: nothing is restored or saved
            self._is_done, self.deadline = True, time.monotonic()

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
        return self.deadline - time.monotonic()

    def _restore(self, port: int, api_key: str) -> None:
        began, read_bytes = time.monotonic(), 0
        while self._untried:
            file, slot = self._untried.pop(0)  # tried once: a file that crashes the engine must not do so again
            status, answer = self._request(port, api_key, slot, "restore", file)
            remove(file)
            if status == 200:
                self._tokens[slot] = _number(answer, "n_restored")
                read_bytes += _number(answer, "n_read")
                continue
            log.warning(
                "kv cache not restored server=%d model=%s slot=%d: %s",
                *(self._server.id, self._server.model.name, slot, _reason(status, answer)),
            )
            if status is None:  # it has exited, or may still be reading
                self._was_unanswered = True
                break
        self._log_result("restored", list(self._tokens.values()), read_bytes, began)

    def _save(self, port: int, api_key: str) -> None:
        began, at_ms = time.monotonic(), int(time.time() * 1000)
        tokens, written_bytes, problem = [], 0, ""
        slots = read_slots(port, api_key)
        if slots is None:
            problem = "no answer to GET /slots"
        for slot, slot_tokens in self._idle_slots(slots or ()):
            saved = SavedSlot(self._start, at_ms, self._token, slot)
            file = self._files.begin(self._server.model.name, saved, slot_tokens * self._bytes_per_token)
            if file is None:
                continue
            status, answer = self._request(port, api_key, slot, "save", file)
            if self._files.finish(file, saved, is_whole=_number(answer, "n_saved") > 0):
                tokens.append(_number(answer, "n_saved"))
                written_bytes += _number(answer, "n_written")
            problem = problem or ("" if status == 200 else _reason(status, answer))
            if status is None:
                break
        if problem:  # for example a slot with images, which some builds cannot save
            log.warning("kv cache not saved server=%d model=%s: %s", self._server.id, self._server.model.name, problem)
        self._log_result("saved", tokens, written_bytes, began)

    def _request(self, port: int, api_key: str, slot: int, action: str, file: Path) -> tuple[int | None, object]:
        seconds = self._seconds_left()
        return save_or_restore_slot(port, api_key, slot, action, file.name, seconds) if seconds > 0 else (None, None)

    def _idle_slots(self, slots: Iterable[Mapping[str, object]]) -> Iterator[tuple[int, int]]:
        """(number, tokens) of the idle slots that are not empty, most recently used first."""
        for slot in sorted(slots, key=lambda slot: -_number(slot, "id_task", -1)):
            number = _number(slot, "id")
            # Some builds do not report the tokens: then at least one, and the file shows how many.
            tokens = _number(slot, "n_prompt_tokens", 1) if "id_task" in slot else self._tokens.get(number, 0)
            if tokens and not slot.get("is_processing"):
                yield number, tokens

    @property
    def _bytes_per_token(self) -> int:
        """An estimate, by the context's memory: the real size is known once the file is written."""
        placement = self._server.placement
        memory = (*placement.estimate.devices, placement.estimate.host)
        return -(-sum(each.context_bytes for each in memory) // max(1, placement.ctx_size))

    def _log_result(self, action: str, tokens: list[int], size_bytes: int, began: float) -> None:
        """`tokens`: of each slot; nothing is logged without any."""
        if not tokens:
            return
        log.info(
            "kv cache %s server=%d model=%s slots=%d tokens=%d mib=%.1f seconds=%.3f",
            *(action, self._server.id, self._server.model.name, len(tokens), sum(tokens)),
            *(size_bytes / 2**20, time.monotonic() - began),
        )


def _number(answer: object, name: str, default: int = 0) -> int:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if isinstance(value, int) else default


def _reason(status: int | None, answer: object) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"{status} {message}" if status else "no answer"
