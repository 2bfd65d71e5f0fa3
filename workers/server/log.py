"""A llama-server's log: the last 256 KiB of it, and the lines that say why a load failed."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable

from workers.logs.engine_text import is_abort, kept_text, without_backtrace

RING_BYTES = 256 * 1024
LINE_BYTES = 4096
ERROR_BYTES = 8 * 1024
ERROR_LINES = 12
LINES_BEFORE_ABORT = 6  # those of "CUDA error", which ggml prints before it aborts

# "0.00.123.456 E llama_model_load: error loading model: ..." or the bare text of older builds. Also lines that show
# how the program ended: an assertion, a signal, the dynamic linker's message about a missing library.
_ERROR = re.compile(
    r"(^|\s)E\s|error|fail|unable|cannot|could not|couldn't|invalid|unsupported|out of memory|abort|assert|"
    r"terminate|what\(\)|exception|no such file|denied|illegal|(?<!de)fault",
    re.IGNORECASE,
)
# llama.cpp's child protocol, messages about -fit, whose failure is not the load's, and errors of single requests.
_IGNORED = re.compile(r"^cmd_child_to_router:|\bcommon_(fit_params|params_fit_impl):|\bgot exception:")
_OUR_PROBES = re.compile(rb"/health|/props")  # many builds log every request
_PREFIX = re.compile(r"^([\d.]+ [A-Z]|E) ")  # "seconds.millis.micros LEVEL ", or the E that we add

# What may precede a message, also if a line of another thread has cut it (memory_report.py). Patterns are matched at
# the beginning of a line only: the rest may repeat text from a model file.
LINE_START = r"(?:[\d.]+ )?(?:[A-Z] )?"
# ggml-cuda.cu: ggml_backend_cuda_buffer_type_alloc_buffer, ggml_cuda_error (cuMemCreate, cublasCreate); ggml-alloc.c:
# alloc_tensor_range, ggml_gallocr_reserve_n_impl; llama-model.cpp: load_tensors
_NO_GPU_MEMORY = re.compile(
    rf"{LINE_START}(?:"
    r"\w+: allocating [\d.]+ MiB on device \d+: cudaMalloc failed: out of memory|"
    r"CUDA error: (?:out of memory|the resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED)|"
    r"\w+: failed to allocate CUDA\d+ buffer of size \d+|"
    r"llama_model_load: error loading model: unable to allocate CUDA\d+ buffer"
    r")$"
)
# ggml.c: ggml_aligned_malloc; ggml-backend.cpp: ggml_backend_cpu_buffer_type_alloc_buffer
_NO_RAM = re.compile(
    rf"{LINE_START}(?:ggml_aligned_malloc: insufficient memory|\w+: failed to allocate (?:CPU\w* )?buffer of size \d+)"
)
# llama-context.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp: GPU memory or RAM
_NO_CONTEXT = re.compile(
    rf"{LINE_START}llama_init_from_model: failed to initialize the context: "
    r"failed to allocate (?:buffer for \w+ cache|compute \w+ buffers)$"
)
# llama-context.cpp, sched_reserve: the failure before this line is not final
_RETRY = re.compile(rf"{LINE_START}\w+: compute buffer allocation failed, retrying without pipeline parallelism$")


class ServerLog:
    """The last RING_BYTES of a process's output, as lines."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0
        self._rest = b""
        self._has_progress = False
        self.bytes_seen = 0

    def feed(self, data: bytes) -> list[str]:
        """Add output that was read; returns the lines that are complete now."""
        self.bytes_seen += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        # Progress dots come without a newline.
        self._has_progress |= any(line.strip() and not _OUR_PROBES.search(line) for line in (*lines, rest))
        self._rest = rest[-LINE_BYTES:]
        texts = [_text(line[:LINE_BYTES]) for line in lines]
        for text in texts:
            self._add(text)
        return texts

    def takes_progress(self) -> bool:
        """Whether anything was logged since the last call, not counting our own probes."""
        has_progress, self._has_progress = self._has_progress, False
        return has_progress

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
    """A log line as text. A line of `--log-jsonl` becomes its message, prefixed with E or D at the level of errors or
    debugging."""
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
    level = str(record.get("level", "")).upper()[:1]
    return f"{level} {message.rstrip()}" if level in ("E", "D") else message.rstrip()


def _around_abort(lines: list[str]) -> list[str]:
    """All of them if none aborts. What follows an abort is a debugger's, but for the text of an exception."""
    aborts = [number for number, line in enumerate(lines) if is_abort(line)]
    if not aborts:
        return lines
    end = aborts[-1] + 1
    while end < len(lines) and lines[end].startswith("  what()"):
        end += 1
    return lines[max(0, aborts[0] - LINES_BEFORE_ABORT) : end]


def error_lines(lines: Iterable[str], may_quote: bool = False) -> str:
    """The lines that say why a process exited: the failed assertion, the last errors, or else the last lines. 8 KiB at
    most. `may_quote`: it has had requests, whose text is omitted: others get the message."""
    lines = [line for line in without_backtrace(lines) if line.strip() and not _IGNORED.search(line)]
    if may_quote:
        lines = [kept for line in lines if (kept := kept_text(line, may_quote)) is not None]
    lines = _around_abort(lines)
    errors = [line for line in lines if _ERROR.search(line)]
    chosen = (errors or lines)[-ERROR_LINES:]
    text = "\n".join(dict.fromkeys(_PREFIX.sub("", line) for line in chosen))
    return text.encode()[-ERROR_BYTES:].decode(errors="ignore")


def is_out_of_gpu_memory(lines: Iterable[str]) -> bool:
    """Whether a llama-server that exited ran out of GPU memory, by its `ServerLog.lines`: all, or the last ones."""
    final: list[str] = []
    for line in lines:
        final.append(line)
        if _RETRY.match(line):
            final.clear()
    if any(_NO_GPU_MEMORY.match(line) for line in final):
        return True
    return any(_NO_CONTEXT.match(line) for line in final) and not any(_NO_RAM.match(line) for line in final)
