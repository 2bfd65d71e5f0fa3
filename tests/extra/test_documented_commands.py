"""Every command of the README and of docs/ that is not marked otherwise is run, against one real service."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.helpers.documents import BIN, Block, blocks_of, commands, pages
from tests.helpers.hub_server import HubServer
from tests.helpers.service import Service, serving
from workers.catalog.demo_model import write_demo_model

# Examples name models that people have; here each is the demo model.
NAMES = ("bge-m3", "mistral-24b", "phi-4", "qwen3-14b", "qwen3-8b")
TOOLS = ("curl", "jq", "openssl", "zstd")
FILES = ("model.gguf", "qwen3-8b-Q4_K_M.gguf")
# Repositories of the examples, with the demo model as each of these files.
REPOSITORIES = {
    "ggml-org/gemma-3-270m-it-GGUF": ("gemma-3-270m-it-Q4_K_M.gguf",),
    "unsloth/Qwen3-14B-GGUF": ("Qwen3-14B-F16.gguf", "Qwen3-14B-Q8_0.gguf", "Qwen3-14B-Q4_K_M.gguf"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    """A service in a folder that has the files of the examples."""
    folder = tmp_path_factory.mktemp("documents")
    demo = write_demo_model(folder)
    for name in FILES:
        (folder / name).symlink_to(demo)
    (folder / ".venv").symlink_to(BIN.parent)
    (folder / "models").mkdir()
    (folder / "request.json").write_text('{"model": "demo", "messages": [], "max_tokens": 4}')
    (folder / "gpus.json").write_text(example_of_gpus())
    (folder / "config.yaml").write_text(json.dumps({"models": {"demo": {"path": str(demo), "aliases": NAMES}}}))
    with HubServer() as hub:
        for name, files in REPOSITORIES.items():
            hub.add(name, dict.fromkeys(files, demo))
        plain = {"HF_ENDPOINT": hub.endpoint}
        with serving(folder, "--config", str(folder / "config.yaml"), plain=plain) as running:
            yield running


def example_of_gpus() -> str:
    page = next(page for page in pages() if page.name == "estimates.md")
    return next(block.text for block in blocks_of(page) if block.text.startswith('{"gpus"'))


@pytest.mark.parametrize("block", [pytest.param(block, id=f"{block.page}:{block.line}") for block in commands()])
def test_a_documented_command_does_what_its_page_says(service: Service, block: Block):
    if missing := [tool for tool in TOOLS if f"{tool} " in block.script and shutil.which(tool) is None]:
        pytest.skip(f"{missing} is not installed")
    done = block.run(service.url, service.folder)
    assert (done.returncode == 0) == (block.mark != "fails"), f"{block.script}\n{done.stdout}\n{done.stderr}"
