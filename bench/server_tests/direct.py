"""Starts llama-server as llama.cpp's tests do, with models of models.py instead of downloaded ones.

python -m bench.server_tests.direct BINARY MODELS FOLDER ARGUMENT...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.server_tests.models import model_for

FEW_THREADS = ("--threads", "1")  # the proxy passes the same to models this small


def main() -> None:
    binary, models, _, *arguments = sys.argv[1:]
    os.execv(binary, [binary, *FEW_THREADS, *with_local_models(arguments, Path(models))])


def with_local_models(arguments: Sequence[str], models: Path) -> list[str]:
    """The same arguments, with local files instead of models on the Hugging Face hub."""
    fetched: dict[str, str] = {}
    kept: list[str] = []
    rest = iter(arguments)
    for each in rest:
        if each in ("--hf-repo", "--hf-file"):
            fetched[each] = next(rest, "")
        elif each != "--offline":
            kept.append(each)
    if not fetched:
        return kept
    return ["--model", str(model_for(fetched.get("--hf-repo", ""), fetched.get("--hf-file", ""), models)), *kept]


if __name__ == "__main__":
    main()
