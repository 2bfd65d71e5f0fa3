"""Pinned models that do not fit the machine together: a configuration error if that is certain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.entities.gpu import Gpu, GpuSnapshot, GpuState, MissingGpu
from app.entities.memory import Confidence
from app.entities.placement import CPU, CpuFallback, PlacementConstraints
from app.use_cases.placement.pins import auto_context_problems, is_capacity_known, pinned_problems, place_pinned
from app.use_cases.placement.request import PlacementRequest
from app.use_cases.placement.world import World
from tests.commands.test_check_config import check, written
from tests.helpers.builders import GIB, a_gguf, a_placement_request
from tests.helpers.fixed_ram import RAM_BYTES
from tests.helpers.gpu_machine import LARGE, SMALL, A, Machine, a_card
from tests.helpers.gpu_play import eight_layers
from tests.helpers.service import serving, wait_for
from tests.helpers.stand_in_nvml import needs_compiler
from tests.placement.test_placement import card

# `eight_layers()` needs 4.1 GiB with a context of 4,096, and 6.0 GiB with 65,536.


def test_pinned_models_are_placed_together_on_an_empty_machine():
    cards = (card(0, free=0, total=12), card(1, free=0, total=6))
    found = place_pinned({"a": eight_layers(), "b": eight_layers(), "c": eight_layers()}, World(cards))
    assert not found.unplaced, "what other processes hold now does not count"
    assert sorted(place.uuids for place in found.placements.values()) == [("GPU-0",), ("GPU-0",), ("GPU-1",)]


def test_models_that_do_not_fit_are_named_with_numbers_and_a_remedy():
    world = World((card(0, free=12, total=12),))
    (line,) = pinned_problems({"small": eight_layers(), "large": eight_layers(65536), "other": eight_layers()}, world)
    assert line.startswith("models.other.pin: pinned models stay loaded, and it does not fit together with large (")
    assert "MiB on cuda:0), small (" in line and "it needs 4," in line and "usable: GPU 0 (RTX 4090)" in line
    assert ". Unpin one of them" in line


def test_a_model_that_does_not_fit_by_itself_is_reported_so():
    (line,) = pinned_problems({"large": eight_layers(65536)}, World((card(0, free=5.9, total=5.9),)))
    assert line.startswith("models.large.pin: it does not fit this machine: it needs 6,")
    assert line.endswith("Unpin it, or set cache_type_k and cache_type_v q8_0")


def test_each_model_uses_only_its_allowed_gpus():
    cards = (card(0, free=6, total=6), card(1, free=24))
    only_first = PlacementConstraints(gpus=("GPU-0",))
    (line,) = pinned_problems({"a": eight_layers(4096, only_first), "b": eight_layers(4096, only_first)}, World(cards))
    assert line.startswith("models.b.pin: ")
    assert pinned_problems({"a": eight_layers(4096, only_first), "b": eight_layers()}, World(cards)) == ()


def test_an_automatic_context_counts_as_the_shortest():
    """Together they need 8.2 GiB with the shortest context; the first alone needs 5 with the longest."""
    auto = eight_layers(4096, PlacementConstraints(has_auto_context=True))
    pinned, world = {"a": auto, "b": auto}, World((card(0, free=8.5, total=8.5),))
    assert pinned_problems(pinned, world) == ()
    (line,) = auto_context_problems(pinned, world)
    assert line.startswith("models.b.pin: it may not fit together with") and line.endswith(
        "set ctx_size for each of them"
    )
    assert auto_context_problems({"a": eight_layers(), "b": eight_layers()}, world) == ()
    assert auto_context_problems(pinned, World((card(0, free=9.7, total=9.7),))) == (), "the second has what is left"


def test_other_load_orders_are_tried():
    """Largest first: 6 GiB on the fuller GPU, the only one the other model may use."""
    cards = (card(0, free=8, total=8), card(1, free=9, total=9))
    pinned = {"large": eight_layers(65536), "small": eight_layers(4096, PlacementConstraints(gpus=("GPU-0",)))}
    assert pinned_problems(pinned, World(cards)) == ()


def test_of_an_estimate_with_low_confidence_only_the_weights_count():
    """`eight_layers()` has 3.4 GiB of weights and needs 4.1 GiB in total."""

    def low_confidence(options, gpus):
        return replace(eight_layers().estimate_with_margin(options, gpus), confidence=Confidence.LOW)

    known = eight_layers()
    unknown = PlacementRequest(known.shape, known.options, low_confidence)
    assert pinned_problems({"known": known, "other": known}, World((card(0, free=8, total=8),)))
    assert pinned_problems({"known": known, "unknown": unknown}, World((card(0, free=8, total=8),))) == ()
    assert pinned_problems({"known": known, "unknown": unknown}, World((card(0, free=8, total=7.3),)))


def test_without_gpus_ram_counts():
    world = World((), shared={CPU: 0}, totals={CPU: 16 * GIB})
    assert pinned_problems({"a": a_placement_request(9 * GIB), "b": a_placement_request(6 * GIB)}, world) == ()
    (line,) = pinned_problems({"a": a_placement_request(9 * GIB), "b": a_placement_request(8 * GIB)}, world)
    assert "models.b.pin: " in line and "it needs 8,192 MiB of RAM; usable: 7,168 MiB" in line


A_GPU = Gpu("GPU-0", 0, "card", total_bytes=8 * GIB, free_bytes=8 * GIB)
KNOWN = GpuSnapshot(GpuState.OK, 0.0, (A_GPU,))


@pytest.mark.parametrize(
    ("gpus", "fallback", "is_known"),
    [
        (KNOWN, CpuFallback.AUTO, True),
        (GpuSnapshot(GpuState.UNREAD, 0.0), CpuFallback.AUTO, False),
        (replace(KNOWN, missing=(MissingGpu("GPU-1", 1, "card", "lost"),)), CpuFallback.AUTO, False),
        (replace(KNOWN, engine_problem="it has no CUDA"), CpuFallback.AUTO, False),
        (GpuSnapshot(GpuState.FAILED, 0.0), CpuFallback.AUTO, False),
        (GpuSnapshot(GpuState.NO_LIBRARY, 0.0), CpuFallback.AUTO, True),
        (GpuSnapshot(GpuState.NO_LIBRARY, 0.0), CpuFallback.NEVER, False),
        (GpuSnapshot(GpuState.NO_DRIVER, 0.0, expected="one is on the bus"), CpuFallback.WHEN_FULL, False),
    ],
)
def test_capacity_is_unknown_while_a_gpu_is_missing(gpus: GpuSnapshot, fallback: CpuFallback, is_known: bool):
    assert is_capacity_known(gpus, fallback) is is_known


# --- whole service ----------------------------------------------------------------------------------


def half_of_ram(folder: Path) -> str:
    """A configuration with two pinned models, each larger than half of the machine's memory; sparse files."""
    for name in ("one", "two"):
        a_gguf(folder / f"{name}.gguf", RAM_BYTES * 6 // 10)
    models = "{one: {path: one.gguf, pin: true}, two: {path: two.gguf, pin: true}}"
    return written(folder, f"gpu: {{enabled: false}}\nmodels: {models}")


@pytest.mark.integration
def test_check_config_reports_it(tmp_path: Path):
    done = check("--config", half_of_ram(tmp_path), "--json", ENGINE__BINARY="embedded")
    (line,) = json.loads(done.stdout)["errors"]
    assert done.exit_code == 1
    assert line.startswith("models.two.pin: pinned models stay loaded, and it does not fit together with one (")


@pytest.mark.integration
def test_one_pinned_model_is_valid(tmp_path: Path):
    file = Path(half_of_ram(tmp_path))
    file.write_text(file.read_text().replace("pin: true}}", "pin: false}}"))
    assert check("--config", str(file), ENGINE__BINARY="embedded").exit_code == 0


def test_max_loaded_below_the_number_of_pinned_models_is_an_error(tmp_path: Path):
    text = "scheduling: {max_loaded: 1}\nmodels: {a: {pin: true}, b: {pin: true}}"
    done = check("--config", written(tmp_path, text))
    assert done.exit_code == 1
    assert "scheduling.max_loaded (1) must not be below the number of pinned models (2: a, b)" in done.stderr


@pytest.mark.integration
def test_the_service_refuses_to_start(tmp_path: Path):
    with serving(tmp_path, "--config", half_of_ram(tmp_path), ENGINE__BINARY="embedded") as service:
        assert service.process.wait(20) == 2
        service.stop()
        assert "cannot start: models.two.pin: pinned models stay loaded" in service.output


@needs_compiler
@pytest.mark.integration
def test_with_gpus_the_capacity_of_each_counts(tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.show(A)  # 1,200 MiB; the large model needs 857, the small one 547
    file = machine.config({"large": {**LARGE, "pin": True}, "small": {**SMALL, "pin": True}}, {})
    environment = {"ENGINE__BINARY": "embedded", "ENGINE__ASSUME_GPU": "true", "DEFAULTS__CTX_SIZE": "4096"}
    with serving(tmp_path, "--config", str(file), plain=machine.hardware.environment, **environment) as service:
        assert service.process.wait(20) == 2
        service.stop()
        assert "models.small.pin: pinned models stay loaded, and it does not fit together with large" in service.output
    machine.show(A, a_card("GPU-b", bus="00000000:02:00.0"))
    with serving(tmp_path, "--config", str(file), plain=machine.hardware.environment, **environment) as service:
        assert service.get("/health").json()["reasons"] == []


@needs_compiler
@pytest.mark.integration
def test_a_problem_unknown_at_the_start_is_reported_once_known(tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    few = a_card("GPU-b", total_mib=400, bus="00000000:02:00.0")
    machine.show(A, replace(few, flags=("lost",)))
    pinned = {"large": {**LARGE, "pin": True}, "small": {**SMALL, "pin": True}}
    with machine.serving(models=pinned) as service:
        assert not any("pin" in reason for reason in service.get("/health").json()["reasons"])
        machine.show(A, few)
        found = wait_for(lambda: [r for r in service.get("/health").json()["reasons"] if "pin" in r], 20)
        assert found[0].startswith("models.small.pin: ")
        wait_for(lambda: found[0] in service.output, 5)
