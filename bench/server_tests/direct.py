"""llama-server as llama.cpp's tests start it, with models of models.py for those it would fetch.

python -m bench.server_tests.direct BINARY MODELS FOLDER ARGUMENT...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.server_tests.models import model_for

FEW_THREADS = ("--threads", "1")  # which the proxy, too, gives to models as small as these


def main() -> None:
    binary, models, _, *arguments = sys.argv[1:]
    os.execv(binary, [binary, *FEW_THREADS, *here(arguments, Path(models))])


def here(arguments: Sequence[str], models: Path) -> list[str]:
    """The same arguments, with files that are here in place of those on the Hugging Face hub."""
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
