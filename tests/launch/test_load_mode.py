"""How a model's file is read: what each engine is told, and what `auto` chooses."""

from __future__ import annotations

import pytest

from app.entities.launch import LaunchSettings, LoadMode
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import CPU, Placement
from app.settings.schema import Settings
from app.use_cases.estimate.load_staging import DIRECT_STAGING_BYTES
from app.use_cases.launch.command_line import launch_on, launch_plan
from app.use_cases.launch.load_mode import (
    SPARE_BYTES,
    FileFacts,
    chosen_load_mode,
    load_mode_arguments,
    offered_modes,
)
from app.use_cases.launch.parsed_args import parse_model_options
from tests.helpers.builders import a_launch, a_model, an_engine, replace
from workers.measurement.model_history import start_of

AUTO, MMAP, READ, DIRECT = LoadMode.AUTO, LoadMode.MMAP, LoadMode.READ, LoadMode.DIRECT
ALL = frozenset({MMAP, READ, DIRECT})
NEEDS = Estimate((DeviceMemory(),), DeviceMemory(), Confidence.EXACT)
ON_GPU = Placement(("GPU-a",), (33,), 999, 4096, 0, NEEDS)
PARTLY_ON_GPU = replace(ON_GPU, n_gpu_layers=20)
UNIFIED = replace(ON_GPU, unified=("GPU-a",))
ON_CPU = Placement((CPU,), (), 0, 4096, 0, replace(NEEDS, devices=()))
SPARE = FileFacts(0.0, "ext4", "/", DIRECT_STAGING_BYTES + SPARE_BYTES)

NEW = an_engine("--load-mode", "-lm")
LATER = an_engine("--mmap", "--no-mmap", "--direct-io", "--no-direct-io")
OLD = an_engine("--no-mmap")


@pytest.mark.parametrize(
    ("mode", "new", "later", "old"),
    [
        (MMAP, ("--load-mode", "mmap"), ("--mmap", "--no-direct-io"), ()),
        (READ, ("--load-mode", "none"), ("--no-mmap", "--no-direct-io"), ("--no-mmap",)),
        (DIRECT, ("--load-mode", "dio"), ("--direct-io", "--no-mmap"), ()),
        (AUTO, (), (), ()),
    ],
)
def test_each_engine_is_told_in_its_own_words(mode: LoadMode, new: tuple, later: tuple, old: tuple):
    assert [load_mode_arguments(mode, engine) for engine in (NEW, LATER, OLD)] == [new, later, old]


def test_an_engine_offers_what_its_help_lists():
    assert [offered_modes(engine) for engine in (NEW, LATER, OLD, an_engine())] == [ALL, ALL, {MMAP, READ}, {MMAP}]


def choice(placement: Placement, file: FileFacts = FileFacts(), offered=ALL, **settings: object) -> LoadMode:  # noqa: B008
    return chosen_load_mode(launch_on(a_launch(**settings), placement), placement, offered, file).mode


@pytest.mark.parametrize(
    ("placement", "file", "expected"),
    [
        (ON_CPU, SPARE, AUTO),
        (PARTLY_ON_GPU, SPARE, AUTO),
        (replace(ON_GPU, n_cpu_moe=3), SPARE, AUTO),
        (replace(ON_GPU, vulkan_numbers=(0,)), SPARE, AUTO),
        (ON_GPU, FileFacts(), READ),
        (ON_GPU, SPARE, READ),
        (ON_GPU, FileFacts(1.0, "ext4"), READ),
        (UNIFIED, SPARE, DIRECT),
        (UNIFIED, replace(SPARE, cached_share=0.9), READ),
        (UNIFIED, replace(SPARE, cached_share=0.89), DIRECT),
        (UNIFIED, replace(SPARE, cached_share=None), DIRECT),
        (UNIFIED, replace(SPARE, file_system="nfs4"), READ),
        (UNIFIED, replace(SPARE, spare_ram_bytes=SPARE.spare_ram_bytes - 1), READ),
        (UNIFIED, FileFacts(), READ),
    ],
)
def test_auto_decides_by_the_placement_and_the_file(placement: Placement, file: FileFacts, expected: LoadMode):
    assert choice(placement, file) is expected


def test_auto_chooses_only_what_the_engine_offers():
    assert choice(ON_GPU, offered=frozenset({MMAP})) is AUTO
    assert choice(UNIFIED, SPARE, frozenset({MMAP, READ})) is READ


def test_auto_leaves_split_tensors_to_the_engine():
    both = replace(ON_GPU, uuids=("GPU-a", "GPU-b"), layers=(), shares=(1, 1))
    assert [choice(both, split_mode=mode) for mode in ("layer", "none", "row", "tensor")] == [READ, READ, AUTO, AUTO]


@pytest.mark.parametrize("args", [("--mlock",), ("--load-mode", "mlock"), ("--lazy-mode=on",), ("--numa", "isolate")])
def test_arguments_of_the_model_count_more_than_auto(args: tuple[str, ...]):
    assert choice(ON_GPU, args=args) is AUTO
    assert choice(ON_GPU, args=args, load_mode=READ) is READ


def test_variables_of_the_model_count_more_than_auto():
    assert choice(ON_GPU, env={"LLAMA_ARG_LOAD_MODE": "mmap"}) is AUTO


def test_what_is_configured_is_chosen_wherever_the_engine_offers_it():
    for placement in (ON_CPU, PARTLY_ON_GPU, ON_GPU, UNIFIED):
        assert [choice(placement, load_mode=mode) for mode in ALL] == list(ALL)
    assert choice(ON_GPU, offered=frozenset({MMAP}), load_mode=DIRECT) is AUTO


@pytest.mark.parametrize(
    ("args", "mode"),
    [
        (["--no-mmap"], READ),
        (["--mmap"], MMAP),
        (["-dio"], DIRECT),
        (["--load-mode", "dio"], DIRECT),
        (["-lm", "none"], READ),
        (["-lm", "mlock"], AUTO),
        (["-lm", "none", "--mmap"], MMAP),
    ],
)
def test_arguments_that_say_how_to_read_are_understood(args: list[str], mode: LoadMode):
    assert parse_model_options(args).load_mode is mode


def test_a_models_key_overrides_its_arguments_and_these_the_default():
    models = {"m": {"args": ["--no-mmap"]}, "n": {"args": ["--no-mmap"], "load_mode": "mmap"}}
    settings = Settings.model_validate({"models": models, "defaults": {"load_mode": "direct"}})
    assert [settings.launch_of(name).options.load_mode for name in ("m", "n", None)] == [READ, MMAP, DIRECT]
    assert Settings.model_validate({"models": models}).launch_of("m").options.load_mode is READ


def test_how_a_file_is_read_changes_nothing_about_what_its_loads_are_known_to_take():
    model = replace(a_model(), launch=LaunchSettings())
    read = replace(model, launch=replace(model.launch, options=replace(model.launch.options, load_mode=READ)))
    assert start_of(model, NEW) == start_of(read, NEW)
    assert "--load-mode" in launch_plan(read, NEW, {}, api_key="", port=0).argv
