"""Every command of the README and of docs/ that is not marked otherwise is run, against one real service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import Block, blocks_of, commands, pages
from tests.helpers.service import Service, serving
from workers.catalog.demo_model import write_demo_model

# Examples name models that people have; here each is the demo model.
NAMES = ("bge-m3", "mistral-24b", "phi-4", "qwen3-14b", "qwen3-8b")
FILES = ("model.gguf", "qwen3-8b-Q4_K_M.gguf")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    """A service in a folder that has the files of the examples."""
    folder = tmp_path_factory.mktemp("documents")
    demo = write_demo_model(folder)
    for name in FILES:
        (folder / name).symlink_to(demo)
    (folder / ".venv").symlink_to(BIN.parent)
    (folder / "models").mkdir()
    (folder / ".curlrc").write_text("fail-with-body\nmax-time = 60\n")  # an error's status is a failed command
    (folder / "request.json").write_text('{"model": "demo", "messages": [], "max_tokens": 4}')
    (folder / "gpus.json").write_text(example_of_gpus())
    (folder / "config.yaml").write_text(json.dumps({"models": {"demo": {"path": str(demo), "aliases": NAMES}}}))
    with serving(folder, "--config", str(folder / "config.yaml")) as running:
        yield running


def example_of_gpus() -> str:
    page = next(page for page in pages() if page.name == "estimates.md")
    return next(block.text for block in blocks_of(page) if block.text.startswith('{"gpus"'))


@pytest.mark.parametrize("block", [pytest.param(block, id=f"{block.page}:{block.line}") for block in commands()])
def test_a_documented_command_does_what_its_page_says(service: Service, block: Block):
    done = run(block, service)
    assert (done.returncode == 0) == (block.mark != "fails"), f"{block.script}\n{done.stdout}\n{done.stderr}"


def run(block: Block, service: Service) -> subprocess.CompletedProcess[str]:
    address = service.url.removeprefix("http://")
    script = re.sub(r"(?:127\.0\.0\.1|localhost):8080", address, block.script)
    assert script.strip(), "a console block has no command: begin it with '$ '"
    program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    env = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(service.folder),
        "LLAMA_SMART_PROXY_URL": service.url,
        "LLAMA_SMART_PROXY_CONFIG": str(service.folder / "config.yaml"),
        "LLAMA_SMART_PROXY_GPU__ENABLED": "false",
        "KEY": "none",
    }
    where = {"cwd": service.folder, "env": env, "stdin": subprocess.DEVNULL}
    return subprocess.run([*program, script], **where, capture_output=True, text=True, timeout=100)
