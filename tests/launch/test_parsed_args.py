"""Parsing of `args`: options that affect memory, and companion files."""

from __future__ import annotations

import pytest

from app.entities.launch import LaunchSettings, ModelOptions, Task
from app.use_cases.launch.parsed_args import CompanionPaths, companion_paths, parse_model_options


def test_options_in_args_are_parsed():
    options = parse_model_options(["--swa-full", "-ncmoe", "3", "--main-gpu=1", "--embeddings", "-nkvo"])
    assert (options.swa_full, options.n_cpu_moe, options.main_gpu) == (True, 3, 1)
    assert (options.task, options.kv_offload) == (Task.EMBEDDING, False)


@pytest.mark.parametrize(
    "args",
    ["-ts x", "-ts nan", "-ts -1,2", "-ts 1e300", "-ctk q9", "-c many", "-ncmoe -1", "-ngl auto", "-devd GPU", "-ts"],
)
def test_invalid_values_are_ignored(args: str):
    assert parse_model_options(args.split()) == ModelOptions()


@pytest.mark.parametrize(
    ("args", "slots"), [("", (4, True)), ("-np -1", (4, True)), ("-np 2", (2, False)), ("-kvu -np 2", (2, True))]
)
def test_a_number_of_slots_means_separate_caches_unless_kv_unified_is_set(args: str, slots: tuple[int, bool]):
    options = parse_model_options(args.split())
    assert (options.parallel, options.kv_unified) == slots


def test_tensor_overrides_accumulate():
    options = parse_model_options(["-ot", r"blk\.1=CPU,x=CUDA1", "--override-tensor", "y=CPU"])
    assert options.overrides == ((r"blk\.1", "CPU"), ("x", "CUDA1"), ("y", "CPU"))


def test_paths_of_companion_files_are_found():
    launch = LaunchSettings(mmproj="eyes.gguf", args=("-md", "d.gguf", "--lora", "a,b", "--lora-scaled", "c:0.5"))
    assert companion_paths(launch) == CompanionPaths("eyes.gguf", "d.gguf", ("a", "b", "c"))
    assert companion_paths(LaunchSettings()) == CompanionPaths()
