"""Chooses the starts of each model: contexts, slots, ubatches and cache types. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.entities.launch import ALL_LAYERS, LaunchSettings, ModelOptions, Task
from bench.gpu.kind import Kind

# llama.cpp's threads spin while they wait for each other: with other work running, as many threads as cores are up to
# 40 times slower.
CPU_THREADS = max(1, len(os.sched_getaffinity(0)) - 1)
WARMUP_BYTES = 10 * 1024**3  # models up to this size are also started without warm-up
LONGEST_EMBEDDED_TOKENS = 8192
SMALL_BYTES = 2 * 1024**3
LONG_PROMPT_TOKENS = 32768  # for models above SMALL_BYTES


@dataclass(frozen=True, slots=True)
class Start:
    """One way to start a model."""

    ctx_size: int  # tokens, all slots together
    slots: int = 1
    is_unified: bool = True
    ubatch: int = 512
    cache_type: str = "f16"
    flash: str = "auto"
    warmup: bool = True
    task: Task = Task.COMPLETION

    @property
    def label(self) -> str:
        """Human-readable, and part of a row's key."""
        slots = f"np {self.slots}" + ("" if self.slots == 1 else " shared" if self.is_unified else " own")
        parts = [f"c {self.ctx_size}", slots, f"ub {self.ubatch}", self.cache_type]
        parts += [] if self.flash == "auto" else [f"fa {self.flash}"]
        parts += [] if self.warmup else ["no warm-up"]
        parts += [] if self.task is Task.COMPLETION else [self.task.value]
        return ", ".join(parts)

    def launch(self, on_gpu: bool) -> LaunchSettings:
        args = [] if self.warmup else ["--no-warmup"]
        args += [] if on_gpu else ["--threads", str(CPU_THREADS)]
        args += {Task.EMBEDDING: ["--embeddings"], Task.RERANK: ["--reranking"]}.get(self.task, [])
        options = ModelOptions(
            ctx_size=self.ctx_size,
            parallel=self.slots,
            kv_unified=self.is_unified,
            ubatch_size=self.ubatch,
            cache_type_k=self.cache_type,
            cache_type_v=self.cache_type,
            flash_attn=self.flash,
            task=self.task,
            devices=int(on_gpu),
            n_gpu_layers=ALL_LAYERS if on_gpu else 0,
        )
        return LaunchSettings(options, args=tuple(args))


def prompt_tokens(start: Start, size_bytes: int) -> int:
    """Length of the prompt: most of a slot, but less of a long context for large models, to stay below a minute.

    Memory growth during a prompt depends on the ubatch. An encoder processes its prompt in one ubatch.
    """
    own = start.ctx_size if start.is_unified else start.ctx_size // start.slots
    if start.task is not Task.COMPLETION:
        return min(own, start.ubatch) - 8
    return min(own * 9 // 10, LONG_PROMPT_TOKENS if size_bytes > SMALL_BYTES else own)


_GPU = (
    Start(4096),
    Start(4096, warmup=False),
    Start(4096, flash="off"),
    Start(32768, 4),
    Start(32768, 4, is_unified=False, ubatch=2048, cache_type="q8_0"),
    Start(131072, cache_type="q8_0"),
    Start(131072, ubatch=2048),
)
_CPU = (
    Start(1024),
    Start(2048, 4, is_unified=False, ubatch=256, cache_type="q8_0"),
    Start(1024, 4, ubatch=128, flash="off"),
)
_QUICK = (Start(256), Start(512, 2, is_unified=False, ubatch=64))
_STARTS: dict[Kind, Sequence[Start]] = {Kind.GPU: _GPU, Kind.REHEARSAL: _CPU}


def starts(
    kind: Kind, context_length: int, size_bytes: int, task: Task, fits: Callable[[Start], bool], is_quick: bool = False
) -> list[Start]:
    """The starts that suit a model of this size and training context and fit in memory."""
    chosen = _QUICK if is_quick else _STARTS[kind]
    if task is not Task.COMPLETION:
        chosen = _embedding(chosen, context_length, task)
    return [
        each
        for each in chosen
        if each.ctx_size <= context_length and (each.warmup or size_bytes <= WARMUP_BYTES) and fits(each)
    ]


def _embedding(chosen: Sequence[Start], context_length: int, task: Task) -> list[Start]:
    """One start with a short context, and one with the longest possible prompt."""
    longest = min(context_length, LONGEST_EMBEDDED_TOKENS, max(each.ctx_size for each in chosen))
    one = replace(chosen[0], ctx_size=min(chosen[0].ctx_size, longest), task=task)
    return list(dict.fromkeys((one, replace(one, ctx_size=longest, ubatch=min(2048, longest)))))
