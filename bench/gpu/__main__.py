"""`bench/gpu/run`: measures the memory of llama-servers on a real GPU in a few minutes; see --help.

Only the standard library is imported before the required packages were checked.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence

from bench.gpu.options import Options, parsed
from workers.engine_builds.stopping import CannotContinue, OutOfTime

CANNOT, AGAIN, INTERRUPTED = 1, 75, 130  # 75: EX_TEMPFAIL
NVIDIA_DRIVER = "/proc/driver/nvidia/version"


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))  # child processes are stopped on the way out
    try:
        if absent := missing(options):
            raise CannotContinue(
                f"missing Python packages: {' '.join(absent)}; {sys.executable} -m pip install {' '.join(absent)}"
            )
        from bench.gpu.steps import run

        run(options)
    except CannotContinue as error:
        print(f"bench/gpu/run: {error}", file=sys.stderr)
        return CANNOT
    except OSError as error:  # disk full, folder not writable
        place = f"{error.filename}: " if error.filename else ""
        print(f"bench/gpu/run: {place}{error.strerror or error}", file=sys.stderr)
        return CANNOT
    except OutOfTime:
        print("out of time; run again to continue", flush=True)
        return AGAIN
    except KeyboardInterrupt:
        print("interrupted; run again to continue", flush=True)
        return INTERRUPTED
    return 0


def missing(options: Options) -> list[str]:
    """Required packages that are not installed, by their names on PyPI."""
    needed = {"numpy": "numpy", "gguf": "gguf"}
    if options.work is None:
        needed["platformdirs"] = "platformdirs"
    if os.path.exists(NVIDIA_DRIVER) and not options.rehearse:
        needed["pynvml"] = "nvidia-ml-py"
    return [package for module, package in needed.items() if importlib.util.find_spec(module) is None]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
