"""TransferChild: the process of one download, as its parent has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

from workers.downloads.transfer_process import Job, TransferReport

_ROOT = Path(__file__).resolve().parents[2]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from workers.downloads.transfer_process import run_transfer; run_transfer(int(sys.argv[2]))"
)
_INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH", "HOME", "TMPDIR")
# Of huggingface_hub, and of the client below it: where its files are, proxies, certificates. The token is one of them.
_INHERITED_PREFIXES = ("HF_", "HUGGING", "XDG_", "TRANSFORMERS_OFFLINE", "SSL_CERT_", "REQUESTS_CA_", "CURL_CA_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class TransferChild:
    """Started by the constructor, which raises OSError. One thread reads; any thread may kill."""

    def __init__(self, job: Job) -> None:
        self._channel, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, str(_ROOT), str(theirs.fileno())],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in a terminal is the parent's
            )
        with contextlib.suppress(BrokenPipeError):
            self._channel.send(job)

    def next(self, seconds: float) -> TransferReport | None:
        """What it says within so many seconds, or None. Raises EOFError when it has ended."""
        try:
            if not self._channel.poll(seconds):
                return None
            said: TransferReport = self._channel.recv()
        except ConnectionResetError as error:
            raise EOFError from error
        return said

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> int:
        """End it, if it has not ended; its exit code."""
        self.kill()
        self._channel.close()
        return self._process.wait()


def _environment() -> dict[str, str]:
    """Not the service's own, which may have keys of other things."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES) or name.lower() in _PROXIES
    }
