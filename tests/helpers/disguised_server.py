"""The embedded engine posing as a CUDA llama-server: CPU buffers appear as CUDA0 in its log.

For code that relies on the log and the command line of a server on a GPU. Run as an executable file.
"""

import re
import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "workers" / "engine" / "embedded_engine.py"


def main() -> int:
    command = [sys.executable, "-P", str(ENGINE), *(each for each in sys.argv[1:] if each != "--log-jsonl")]
    if "--help" in sys.argv:
        print("--log-jsonl".ljust(40) + "makes callers enable the log of buffers", flush=True)
    with subprocess.Popen(command, stdin=sys.stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as engine:
        assert engine.stdout
        for line in engine.stdout:
            sys.stdout.buffer.write(re.sub(rb"\bCPU(_Mapped)?( +(model|KV|compute) buffer)", rb"CUDA0\2", line))
            sys.stdout.buffer.flush()
    return engine.returncode


if __name__ == "__main__":
    sys.exit(main())
