"""Makes a model's header from its metadata: the tensors are those that the engine requests from the file.

    python -m bench.truth.model_header METADATA.json [--optional 'output|bias'] [--sdist FILE]

METADATA.json has the file's keys, "general.architecture" and "ARCHITECTURE.vocab_size" among them. Prints metadata,
vocabulary and tensors for bench/data/vram/headers.json, with types as a Q4_K_M file has them. Tensors that the engine
does not require are left out unless --optional, a regular expression, matches their names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.truth.tool import WORK, engine_library, engine_source, has_newer_strings
from tests.helpers.gguf_bytes import a_header
from workers.engine_builds.logged_command import run_logged
from workers.engine_builds.stopping import CannotContinue, Deadline

Requested = tuple[str, tuple[int, ...]]  # name and dimensions
Typed = tuple[str, tuple[int, ...], str]

_SOURCE = Path(__file__).with_name("native") / "requested_tensors.cpp"
_CHILD = Path(__file__).with_name("child.py")
_SECONDS = 300.0
_WITHOUT_VOCABULARY = {"tokenizer.ggml.model": "none"}  # "ARCHITECTURE.vocab_size" is then its size
_BLOCK = re.compile(r"(.*?blk\.)(\d+)(\..*)")
# Matrices that llama.cpp's converter leaves as they are (conversion/base.py), and those that are no weights.
_UNQUANTIZED = re.compile(
    r"_norm|ffn_gate_inp|conv|time_mix_(first|w|v|a|g|decay)|lerp|rel_b|position_embd|token_types|hc_"
)
_FINER = re.compile(r"attn_(v|qkv|kv_b)\.|ffn_down")  # some of these are Q6_K (src/llama-quant.cpp)
_BLOCK_VALUES = {"Q4_K": 256, "Q6_K": 256, "Q5_0": 32, "Q8_0": 32}
_SMALLER = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # whose rows may be shorter


def built_library(sdist: Path | None, work: Path = WORK) -> Path:
    """A library whose loader takes precedence over the engine's. Raises CannotContinue."""
    library, source = work.absolute() / "requested_tensors.so", engine_source(sdist, work).folder
    included = [f"-I{source / each}" for each in ("src", "include", "ggml/include", "common")]
    strings = f"-D_GLIBCXX_USE_CXX11_ABI={int(has_newer_strings())}"
    linked = [str(engine_library()), "-Wl,--allow-shlib-undefined", f"-Wl,-rpath,{engine_library().parent}"]
    command = ["c++", "-std=c++17", "-w", "-fPIC", "-shared", strings, *included, str(_SOURCE), *linked]
    log, deadline = work.absolute() / "requested_tensors.log", Deadline(_SECONDS)
    run_logged([*command, "-o", str(library)], os.environ, log, deadline, "the loader has changed")
    return library


def requested_tensors(metadata: Mapping[str, Any], optional: str, library: Path) -> list[Requested]:
    """Raises CannotContinue with the engine's message, for example about a missing key."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(a_header({**metadata, **_WITHOUT_VOCABULARY}, ()))
        file.flush()
        command = [sys.executable, "-I", "-S", str(_CHILD), str(library), file.name, optional or "^$"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    lines = done.stdout.splitlines()
    if "done" not in lines:
        raise CannotContinue(done.stderr.strip()[-400:] or f"exit status {done.returncode}")
    found = (line.split() for line in lines[: lines.index("done")])
    return list(dict.fromkeys((name, tuple(map(int, dimensions))) for name, *dimensions in found))


def mixed(tensors: Sequence[Requested]) -> Iterator[Typed]:
    """With types as in a Q4_K_M file: every second of the finer ones is Q6_K."""
    finer, is_tied = 0, all(name != "output.weight" for name, _ in tensors)
    for name, dimensions in tensors:
        is_output = name == "output.weight" or (is_tied and name == "token_embd.weight")
        finer += bool(_FINER.search(name))
        is_finer = is_output or (_FINER.search(name) is not None and finer % 2 == 0)
        yield name, dimensions, _type(name, dimensions, "Q6_K" if is_finer else "Q4_K")


def _type(name: str, dimensions: tuple[int, ...], wanted: str) -> str:
    if "tid2eid" in name:  # expert numbers
        return "I32"
    if len(dimensions) < 2 or not name.endswith(".weight") or _UNQUANTIZED.search(name):
        return "F32"
    fitting = (each for each in (wanted, _SMALLER[wanted]) if dimensions[0] % _BLOCK_VALUES[each] == 0)
    return next(fitting, "F16")


def compact(tensors: Iterable[Typed]) -> list[list[Any]]:
    """As in headers.json: equal tensors of several blocks are one."""
    found: dict[Typed, list[int]] = {}
    for name, dimensions, type_ in tensors:
        block = _BLOCK.fullmatch(name)
        key = f"{block[1]}{{}}{block[3]}" if block else name
        found.setdefault((key, dimensions, type_), []).extend([int(block[2])] if block else [])
    return [[name, list(dims), type_, *_ranges(blocks)] for (name, dims, type_), blocks in found.items()]


def _ranges(blocks: list[int]) -> list[str]:
    """[0, 1, 2, 5] is ["0-2,5"]."""
    parts: list[list[int]] = []
    for block in blocks:
        if parts and block == parts[-1][-1] + 1:
            parts[-1].append(block)
        else:
            parts.append([block])
    texts = (str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return [",".join(texts)] if parts else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata", type=Path)
    parser.add_argument("--optional", default="", help="which of the optional tensors the model has")
    parser.add_argument("--sdist", type=Path, help="source package of the installed xllamacpp, or its folder")
    options = parser.parse_args()
    metadata = json.loads(options.metadata.read_text())
    try:
        tensors = requested_tensors(metadata, options.optional, built_library(options.sdist))
    except CannotContinue as error:
        sys.exit(str(error))
    vocabulary = metadata[f"{metadata['general.architecture']}.vocab_size"]
    print(json.dumps({"metadata": metadata, "vocabulary": vocabulary, "tensors": compact(mixed(tensors))}))


if __name__ == "__main__":
    main()
