"""`bench/gpu/run`: minutes on a real GPU become evidence about the memory of llama-servers; see --help.

Nothing but the standard library is imported before it is known that the rest is there.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence

from bench.gpu.options import Options, parsed
from bench.gpu.stopping import CannotGoOn, OutOfTime

CANNOT, AGAIN, INTERRUPTED = 1, 75, 130  # 75: EX_TEMPFAIL
NVIDIA_DRIVER = "/proc/driver/nvidia/version"


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))  # whatever was started is stopped on the way out
    try:
        if absent := missing(options):
            raise CannotGoOn(
                f"missing Python packages: {' '.join(absent)}; {sys.executable} -m pip install {' '.join(absent)}"
            )
        from bench.gpu.steps import run

        run(options)
    except CannotGoOn as error:
        print(f"bench/gpu/run: {error}", file=sys.stderr)
        return CANNOT
    except OSError as error:  # a disk that is full, a folder that may not be written
        place = f"{error.filename}: " if error.filename else ""
        print(f"bench/gpu/run: {place}{error.strerror or error}", file=sys.stderr)
        return CANNOT
    except OutOfTime:
        print("out of time: run again to go on", flush=True)
        return AGAIN
    except KeyboardInterrupt:
        print("interrupted: run again to go on", flush=True)
        return INTERRUPTED
    return 0


def missing(options: Options) -> list[str]:
    """Packages that are needed here and not installed, as pip names them."""
    needed = {"numpy": "numpy", "gguf": "gguf"}
    if options.work is None:
        needed["platformdirs"] = "platformdirs"
    if os.path.exists(NVIDIA_DRIVER) and not options.rehearse:
        needed["pynvml"] = "nvidia-ml-py"
    return [package for module, package in needed.items() if importlib.util.find_spec(module) is None]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
