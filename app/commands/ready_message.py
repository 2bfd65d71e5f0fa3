"""What `serve` prints once the service is ready: its addresses, its models, and a request to try."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.completion import PROGRAM

if TYPE_CHECKING:
    from app.entities.launch import Task
    from app.entities.model import Model
    from app.settings.schema import Settings
    from workers.runtime import Runtime

A_SMALL_MODEL = "ggml-org/gemma-3-270m-it-GGUF"  # 240 MB
GPU_SECONDS = 5.0  # NVML may take so long where no process keeps the driver loaded


def _example_model(runtime: Runtime, models: list[Model], default: str | None) -> tuple[Model, Task] | None:
    """A valid model and its task: the default one, else a small one, preferably a chat model. Reads ten headers at
    most."""
    from app.entities.launch import Task
    from app.errors import InvalidModelFile

    found = None
    for model in sorted(models, key=lambda model: (model.name != default, model.size_bytes))[:10]:
        with contextlib.suppress(InvalidModelFile):
            good = runtime.services.catalog.servable(model)
            task = runtime.task_of(good)
            if task is Task.COMPLETION or good.name == default:
                return good, task
            found = found or (good, task)
    return found


def _example_request(task: Task) -> tuple[str, dict[str, Any]]:
    """The path and the body, without `model`, of an example request."""
    from app.entities.launch import Task

    match task:
        case Task.EMBEDDING:
            return "/v1/embeddings", {"input": "Hello!"}
        case Task.RERANK:
            return "/v1/rerank", {"query": "greeting", "documents": ["Hello!", "Good night."]}
        case Task.COMPLETION:
            return "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello!"}]}


def print_ready_message(settings: Settings, runtime: Runtime, address: str) -> None:
    """Print the address and an example request once the service is ready; waits for the first reading of the GPUs."""
    address = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")  # a connectable address
    models = [model for model in runtime.services.catalog.models() if not model.problem]
    broken = len(runtime.services.catalog.models()) - len(models)
    lines = ["", f"Llama Smart Proxy {runtime.services.version} is ready.", f"  OpenAI base URL  {address}/v1"]
    lines += [
        f"  status page      {address}/",
        f"  models           {_summarize_names([model.name for model in models])}",
    ]
    if broken:
        lines += [f"  not served       {broken}; see {address}/"]
    if not models and settings.catalog.models_dirs:
        folders = ", ".join(map(str, settings.catalog.models_dirs))
        lines += ["", f"  No usable *.gguf file in {folders} or its subfolders."]
    if runtime.services.engine is None:
        lines += ["", f"  No engine: {runtime.services.engine_problem}"]
    lines += [line for problem in _gpu_problems(runtime) for line in ("", f"  {problem}")]
    if not runtime.has_models:
        lines += ["", "  `demo` is a tiny model with random weights: its answers are noise. Serve a real one with"]
        lines += [f"    {_command_to_type()} serve --model {A_SMALL_MODEL}", "  or your own files with"]
        lines += [f"    {_command_to_type()} serve --models-dir DIR"]
    if settings.is_open:
        lines += ["", "  No keys are configured: anyone who can reach this address can use it."]
    if found := _example_model(runtime, models, settings.catalog.default_model):
        model, task = found
        path, more = _example_request(task)
        body = json.dumps({"model": model.name, **more})
        key = ' -H "Authorization: Bearer $KEY"' if settings.keys else ""
        lines += ["", "  Try it:", f"    curl {address}{path}{key} -d {shlex.quote(body)}"]
    with contextlib.suppress(OSError):  # stdout may be closed
        click.echo("\n".join([*lines, ""]))


def _gpu_problems(runtime: Runtime) -> list[str]:
    """Why GPUs are not used, with commands as they are typed in this shell."""
    from app.entities.gpu import GpuState

    store, ends = runtime.services.store, time.monotonic() + GPU_SECONDS
    while store.gpus.state is GpuState.UNREAD and time.monotonic() < ends:
        time.sleep(0.02)
    return [problem.replace(f"{PROGRAM} ", f"{_command_to_type()} ") for problem in store.gpus.problems]


def _command_to_type() -> str:
    """How to run this program again from the same shell."""
    import shutil

    return PROGRAM if shutil.which(PROGRAM) else str(Path(sys.argv[0]).with_name(PROGRAM))


def _summarize_names(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
