"""Names of architectures: those of llama.cpp, read from the engine's own library."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from app.use_cases.estimate import expert_copies, families, graph_rules, pipeline_copies
from app.use_cases.model_shape import architectures as arch
from app.use_cases.model_shape import header_facts, indexer


@pytest.fixture(scope="module")
def library() -> bytes:
    """The embedded engine, whose strings end with a zero byte (llama.cpp, src/llama-arch.cpp: LLM_ARCH_NAMES)."""
    spec = find_spec("xllamacpp")
    assert spec and spec.origin
    return next(Path(spec.origin).parent.glob("xllamacpp*.so")).read_bytes()


def test_every_architecture_with_a_rule_has_the_name_that_llama_cpp_gives_it(library: bytes):
    shapes = (arch.WINDOWS, arch.LISTED_WINDOWS, arch.ALL_WINDOWED, arch.WITHOUT_CACHE, arch.WITHOUT_OUTPUT)
    shapes += (arch.WITH_COMPRESSED_CACHES, arch.WITH_OUTPUT_IN_RAM, arch.LOOPED, arch.NOT_CAUSAL)
    states = (arch.RECURRENT, arch.STATE_WITHOUT_KV_HEADS, arch.STATE_BY_INTERVAL, arch.STATE_AND_KV)
    others = (
        arch.TOKEN_SHIFTS,
        indexer.WITH_INDEXER,
        arch.WITH_COMPRESSED_CACHES,
        arch.WITH_SHARED_CACHES,
        header_facts._ENCODERS,
    )
    rules = (graph_rules.EXPERTS, graph_rules.OTHER_GRAPHS, graph_rules.ENCODER_RESIDUALS)
    copies = (pipeline_copies._ENCODERS, pipeline_copies._MAMBA2, pipeline_copies._RWKV, pipeline_copies._DEEPSTACK)
    named = {name for group in (*shapes, *states, *others, *rules, *copies) for name in group}
    named |= {*families.architectures(), *expert_copies.EQUAL_EXPERTS_OVERLAP}
    unknown = {name for name in named if f"{name}\0".encode() not in library}
    assert not unknown
