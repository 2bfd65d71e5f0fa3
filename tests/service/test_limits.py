"""Fault 44: no file descriptor or process is left.

With `ulimit -u 50` the service runs as a user of its own, and others of that user take what it does not use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service import FIXED_RAM, Service, serving, wait_for

LIMIT = 50
USER = 100_000 + os.getpid()  # nobody else's: the limit is on all processes and threads of a user

# Becomes another user with the limit, but may read every file: the interpreter may be where only root looks.
AS_USER = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NPROC, ({LIMIT}, {LIMIT}))
user = ["--reuid={USER}", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
os.execvp("setpriv", ["setpriv", *user, "--pdeathsig=KILL", sys.executable, *sys.argv[1:]])
"""
TAKE_THE_REST = """
import threading, time
try:
    while True: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
except RuntimeError:
    print("no more", flush=True)
    input()
"""


def can_become_another_user() -> bool:
    if os.geteuid() or not shutil.which("setpriv"):
        return False
    return subprocess.run([sys.executable, "-c", AS_USER, "-c", ""], capture_output=True).returncode == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may write to; pytest's own are private."""
    if not can_become_another_user():
        pytest.skip("only root, with setpriv, can become another user")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@contextlib.contextmanager
def no_process_left() -> Iterator[None]:
    command = [sys.executable, "-c", AS_USER, "-c", TAKE_THE_REST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hog:
        assert hog.stdout is not None
        try:
            assert hog.stdout.readline() == "no more\n"
            yield
        finally:
            hog.kill()


def code_of(service: Service) -> str:
    answer = service.chat(max_tokens=1)
    return "" if answer.status_code == 200 else str(answer.json()["error"]["code"])


def test_without_a_process_left_a_load_is_spawn_failed_and_works_once_there_are(folder: Path):
    with serving(folder, program=("-c", AS_USER, "-P", FIXED_RAM)) as service:
        assert code_of(service) == ""
        assert service.post("/models/unload", {"model": "demo"}).status_code == 200
        with no_process_left():
            refused = service.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "spawn_failed")
            assert refused.headers["Retry-After"]
            assert service.get("/health").status_code == 200
        wait_for(lambda: code_of(service) == "", 20)


FEW_FILES = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.execv(sys.executable, [sys.executable, "-P", {FIXED_RAM!r}, *sys.argv[1:]])
"""


def test_with_64_descriptors_idle_connections_make_room_for_engines(tmp_path: Path):
    """They used to take all of them: a cold model was spawn_failed for as long as they stayed."""
    with serving(tmp_path, program=("-c", FEW_FILES)) as service, contextlib.ExitStack() as idle:
        service.get("/health")
        for _ in range(100):
            idle.enter_context(service.connect())
        assert code_of(service) == ""
        assert service.worker.num_fds() < 64
        assert service.get("/readyz").status_code == 200
