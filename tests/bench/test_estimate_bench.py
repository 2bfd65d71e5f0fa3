"""What bench.estimate sets beside our estimates, and says about their misses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.entities.launch import ModelOptions
from bench.estimate import misses
from bench.known_misses import REASONS, UNKNOWN, reason
from bench.peers import comparisons, ollama_bytes, write_sparse, xllamacpp_bytes
from bench.vram_truth import header, rows
from tests.helpers.gguf_bytes import Info, a_header
from workers.gguf.header import read_header


def test_ollamas_formula_takes_the_file_and_an_f16_cache():
    said = header("llama-3.2-1b", "Q4_K_M")
    file_bytes = sum(tensor.size_bytes for tensor in said.tensors)
    # K and V x 16 layers x 8 heads x (2048 / 32) values x 8192 tokens x 2 bytes = 256 MiB
    options = ModelOptions(ctx_size=8192, cache_type_k="q4_0", cache_type_v="q4_0")
    assert ollama_bytes(said, options) == file_bytes + 256 * 1024**2


def test_xllamacpp_answers_the_same_for_a_vocabulary_of_the_same_length(tmp_path: Path):
    """A real list of tokens takes its parser seconds, so the bench gives it one string that is as long."""
    tokens = [f"token {number}" for number in range(5000)]
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "tokenizer.ggml.tokens": tokens,
    }
    tensors = [Info("token_embd.weight", (64, 5000)), Info("blk.0.ffn_up.weight", (64, 256))]
    real, sparse, shorter = (tmp_path / f"{name}.gguf" for name in ("real", "sparse", "shorter"))
    real.write_bytes(a_header(metadata, tensors) + bytes(4 * 64 * 5256))
    said = read_header(str(real))
    write_sparse(sparse, said)
    write_sparse(shorter, replace(said, lengths={"tokenizer.ggml.tokens": 100}))
    options = ModelOptions(ctx_size=512, parallel=1)
    answers = [xllamacpp_bytes(path, options)["xllamacpp"] for path in (real, sparse, shorter)]
    assert answers[0] == answers[1] > answers[2]


def test_peers_are_compared_on_rows_of_one_whole_gpu():
    some = [row for row in rows() if row.shape == "llama-3.2-1b"]
    compared = list(comparisons(some))
    assert 0 < len(compared) < len(some)
    assert all(len(row.devices) == 1 and set(said) == {"xllamacpp", "ollama"} for row, said in compared)


def test_a_miss_without_a_known_reason_says_which_item_is_off():
    row = next(row for row in rows() if row.shape == "llama-3.2-1b" and len(row.devices) == 1)
    off = {"weights": 0.0, "context": 0.0, "compute": -0.4, "total": -0.03, "booked": -0.01, "margin": 0.02}
    (miss,) = misses([(row, off), (row, dict.fromkeys(off, 0.0))])
    assert miss["reason"] == f"{UNKNOWN}: compute 40 % low"
    assert (miss["rows"], miss["off"], miss["margins_percent"], miss["smallest_booked_percent"]) == (2, 1, [2.0], -1.0)


def test_a_known_reason_is_told():
    for kind, families in REASONS.items():
        for family, said in families.items():
            assert reason(family, kind, "compute 5 % high") == said
