"""A llama-server's log: always drained, bounded, and asked for its last words when a load fails."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable

RING_BYTES = 256 * 1024
LINE_BYTES = 4096
LAST_WORDS_BYTES = 8 * 1024
LAST_WORDS_LINES = 12

# "0.00.123.456 E llama_model_load: error loading model: ..." or the bare text of older builds. Lines that tell
# how the program ended matter too: an assertion, a signal, the loader's complaint about a missing library.
_TELLING = re.compile(
    r"(^|\s)E\s|error|fail|unable|cannot|could not|couldn't|invalid|unsupported|out of memory|abort|assert|"
    r"terminate|exception|no such file|denied|illegal|(?<!de)fault",
    re.IGNORECASE,
)
# llama.cpp's own protocol; and what it says of a model it was asked to fit, which fails only as far as that goes.
_ASIDE = re.compile(r"^cmd_child_to_router:|\bcommon_(fit_params|params_fit_impl):")
_OUR_PROBES = re.compile(rb"/health|/props")  # many builds log each request
_PREFIX = re.compile(r"^([\d.]+ [A-Z]|E) ")  # "seconds.millis.micros LEVEL ", or our mark

# What a line may begin with, also when a line of another thread has cut it (engine_report.py); held against
# beginnings only: further on, lines may repeat what a model's file says.
_BEFORE = r"(?:[\d.]+ )?(?:[A-Z] )?"
# ggml-cuda.cu: ggml_backend_cuda_buffer_type_alloc_buffer, ggml_cuda_error (cuMemCreate, cublasCreate); ggml-alloc.c:
# alloc_tensor_range, ggml_gallocr_reserve_n_impl; llama-model.cpp: load_tensors
_NO_GPU_MEMORY = re.compile(
    rf"{_BEFORE}(?:"
    r"\w+: allocating [\d.]+ MiB on device \d+: cudaMalloc failed: out of memory|"
    r"CUDA error: (?:out of memory|the resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED)|"
    r"\w+: failed to allocate CUDA\d+ buffer of size \d+|"
    r"llama_model_load: error loading model: unable to allocate CUDA\d+ buffer"
    r")$"
)
# ggml.c: ggml_aligned_malloc; ggml-backend.cpp: ggml_backend_cpu_buffer_type_alloc_buffer
_NO_RAM = re.compile(
    rf"{_BEFORE}(?:ggml_aligned_malloc: insufficient memory|\w+: failed to allocate (?:CPU\w* )?buffer of size \d+)"
)
# llama-context.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp: of either memory
_NO_CONTEXT = re.compile(
    rf"{_BEFORE}llama_init_from_model: failed to initialize the context: "
    r"failed to allocate (?:buffer for \w+ cache|compute \w+ buffers)$"
)
# llama-context.cpp, sched_reserve: the failure before it was none
_SECOND_TRY = re.compile(rf"{_BEFORE}\w+: compute buffer allocation failed, retrying without pipeline parallelism$")


class ServerLog:
    """The last RING_BYTES of what a process wrote, line by line."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0
        self._rest = b""
        self._has_moved = False
        self.bytes_seen = 0

    def feed(self, data: bytes) -> list[str]:
        """Take in what was read; the lines that are whole with it."""
        self.bytes_seen += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        # Dots without a line's end are progress too.
        self._has_moved |= any(line.strip() and not _OUR_PROBES.search(line) for line in (*lines, rest))
        self._rest = rest[-LINE_BYTES:]
        texts = [_text(line[:LINE_BYTES]) for line in lines]
        for text in texts:
            self._add(text)
        return texts

    def takes_progress(self) -> bool:
        """Whether it has said anything since the last time, echoes of our own probes aside."""
        moved, self._has_moved = self._has_moved, False
        return moved

    def lines(self) -> list[str]:
        rest = [_text(self._rest)] if self._rest else []
        return [*self._lines, *rest]

    def _add(self, line: str) -> None:
        if not line:
            return
        self._lines.append(line)
        self._size += len(line)
        while self._size > RING_BYTES:
            self._size -= len(self._lines.popleft())


def _text(line: bytes) -> str:
    """A log line as text: one of `--log-jsonl` is unpacked, and marked E when its level says so."""
    text = line.decode(errors="replace").rstrip()
    if not text.startswith("{"):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return text
    message = record.get("msg") if isinstance(record, dict) else None
    if not isinstance(message, str):
        return text
    is_error = str(record.get("level", "")).upper().startswith("E")
    return f"E {message.rstrip()}" if is_error else message.rstrip()


def last_words(lines: Iterable[str]) -> str:
    """The lines that say why a process ended: the last telling ones, else simply the last. 8 KiB at most."""
    lines = [line for line in lines if line.strip() and not _ASIDE.search(line)]
    telling = [line for line in lines if _TELLING.search(line)]
    chosen = (telling or lines)[-LAST_WORDS_LINES:]
    text = "\n".join(dict.fromkeys(_PREFIX.sub("", line) for line in chosen))
    return text.encode()[-LAST_WORDS_BYTES:].decode(errors="ignore")


def is_out_of_gpu_memory(lines: Iterable[str]) -> bool:
    """Whether a llama-server that ended while it loaded had too little GPU memory, by its `ServerLog.lines`."""
    said: list[str] = []
    for line in lines:
        said.append(line)
        if _SECOND_TRY.match(line):
            said.clear()
    if any(_NO_GPU_MEMORY.match(line) for line in said):
        return True
    return any(_NO_CONTEXT.match(line) for line in said) and not any(_NO_RAM.match(line) for line in said)
