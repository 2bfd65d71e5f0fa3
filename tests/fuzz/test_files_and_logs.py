"""GGUF headers, configurations and engines' logs: whatever they contain is a value or the error that says so."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.entities.gguf import FileKind
from app.entities.request_rules import SYSTEM_PROMPT
from app.errors import InvalidModelFile
from app.settings.configuration import Configuration, ConfigurationError, read_configuration
from app.use_cases.ollama.options import SAMPLING
from tests.fuzz.strategies import corpus, damaged
from tests.helpers.gguf_bytes import PROJECTOR, TINY, Info, a_file
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import inspect_file
from workers.catalog.ollama_manifest import InvalidManifest, parse_manifest
from workers.catalog.ollama_parameters import parameter_rules
from workers.gguf.header import read_header
from workers.measurement.memory_report import EngineReport
from workers.server.load_progress import load_progress
from workers.server.log import ERROR_BYTES, RING_BYTES, ServerLog, error_lines, is_out_of_gpu_memory

HEADERS = [
    a_file(),
    a_file({**TINY, "tokenizer.ggml.tokens": ["a", "b"], "llama.rope.freq_base": 1e4, "split.count": 1}),
]
COMPANIONS = [
    a_file(
        {**PROJECTOR, "clip.projector_type": "qwen3vl_merger"}, [Info("mm.2.weight", (8, 8)), Info("v.deepstack.1.a")]
    ),
    a_file(
        {**TINY, "llama.block_count": 3, "llama.nextn_predict_layers": 1, "llama.embedding_length": 8},
        [Info("blk.2.nextn.eh_proj.weight")],
    ),
]
LAYER = '{"mediaType": "application/vnd.ollama.image.%s", "digest": "sha256:' + 64 * "a" + '", "size": 9}'
MANIFESTS = [
    f'{{"schemaVersion": 2, "config": {{}}, "layers": [{LAYER % "model"}, {LAYER % "params"}]}}'.encode(),
    f'{{"manifests": [{{"runner": "llamacpp", "format": "gguf", "digest": "sha256-{64 * "b"}"}}]}}'.encode(),
]
PARAMETERS = [b'{"stop": ["<|im_end|>"], "temperature": 0.6, "num_ctx": 4096, "repeat_last_n": -1}']
SECRET = "sk-sesame-open"  # by mistake where its hash should be
WITH_SECRET = f"keys:\n  - {{name: a, sha256: {SECRET}}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@given(content=damaged(HEADERS) | st.binary(max_size=64))
def test_any_file_is_a_model_or_invalid(file: Path, content: bytes):
    file.write_bytes(content)
    try:
        header = read_header(str(file))
    except InvalidModelFile as error:
        assert "\n" not in str(error)
    else:
        assert header.tensors is not None


@given(content=damaged([*HEADERS, *COMPANIONS]) | st.binary(max_size=64))
def test_any_file_has_a_kind_and_at_most_a_width(file: Path, content: bytes):
    file.write_bytes(content)
    found = inspect_file(str(file), FileSummaries(), file.name)
    assert isinstance(found.kind, FileKind) and (found.width is None or found.width > 0)


@given(content=damaged(MANIFESTS) | st.binary(max_size=64))
def test_any_manifest_names_blobs_or_is_invalid(content: bytes):
    try:
        found = parse_manifest(content)
    except InvalidManifest:
        return
    named = [found] if isinstance(found, str) else [found.model, found.parameters] if found else []
    assert all(re.fullmatch(r"sha256-[0-9a-fA-F]{64}", blob) for blob in named if blob)


@given(parameters=damaged(PARAMETERS) | st.binary(max_size=64), prompt=st.binary(max_size=8))
def test_any_parameters_are_rules_for_requests_or_invalid(parameters: bytes, prompt: bytes):
    try:
        rules = parameter_rules(parameters, prompt)
    except ValueError:
        return
    assert rules.default.keys() <= SAMPLING | {SYSTEM_PROMPT}
    json.dumps(rules.default, allow_nan=False)


@given(content=damaged([*corpus("configuration.txt"), WITH_SECRET.encode()]))
def test_any_configuration_is_valid_or_an_error_without_its_secrets(file: Path, content: bytes):
    file.write_bytes(content)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_SMART_PROXY_")}
    environment["LLAMA_SMART_PROXY_CONFIG"] = str(file)
    with mock.patch.dict(os.environ, environment, clear=True):
        try:
            assert isinstance(read_configuration(), Configuration)
        except ConfigurationError as error:
            assert all(error.lines)
            assert SECRET not in str(error) or b"sha256:" not in content  # else it stands where a key's name would


@given(st.lists(damaged(corpus("logs.txt")), max_size=6).map(b"".join), st.lists(st.integers(0, 400), max_size=5))
def test_any_log_is_read_the_same_in_any_pieces(output: bytes, cuts: list[int]):
    whole, pieces = ServerLog(), ServerLog()
    whole.feed(output)
    edges = [0, *sorted(min(cut, len(output)) for cut in cuts), len(output)]
    for start, end in itertools.pairwise(edges):
        pieces.feed(output[start:end])
    lines = whole.lines()
    assert pieces.lines() == lines
    assert sum(map(len, lines)) <= RING_BYTES + len(output) and len(error_lines(lines).encode()) <= ERROR_BYTES
    is_out_of_gpu_memory(lines)


@given(st.lists(damaged(corpus("logs.txt")), max_size=6), st.booleans())
def test_any_log_gives_a_report_of_bytes_or_none(lines: list[bytes], in_json: bool):
    report = EngineReport(in_json)
    for line in lines:
        report.read(line.decode(errors="replace").rstrip("\n"))
    share = load_progress(line.decode(errors="replace") for line in lines)
    assert share is None or 0 <= share <= 1
    projected, loaded = report.projected, report.loaded()
    assert projected is None or projected.total_bytes >= 0
    assert loaded is None or loaded.unmapped_bytes >= 0
