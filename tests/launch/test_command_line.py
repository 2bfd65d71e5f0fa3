"""The command line and environment of a llama-server."""

from __future__ import annotations

import pytest

from app.entities.launch import EngineKind
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import Placement
from app.use_cases.launch.command_line import avoid_known_crash, launch_on, launch_plan, without_prompt_cache
from tests.helpers.builders import MIB, a_launch, a_model, an_engine, on_the_cpu, replace


def plan(*flags: str, **settings: object):
    model = replace(a_model("qwen"), launch=a_launch(**settings))
    return launch_plan(model, an_engine(*flags), {"PATH": "/bin"}, api_key="secret", port=0)


def option(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_every_argument_that_affects_memory_is_set():
    argv = plan(ctx_size=8192, parallel=3, ubatch_size=256, cache_type_k="q8_0", cache_type_v="q4_0").argv
    assert argv[0] == "/bin/llama-server"
    assert {name: option(argv, name) for name in argv if name.startswith("--")} == {
        "--model": "/models/qwen.gguf",
        "--alias": "qwen",
        "--host": "127.0.0.1",
        "--port": "0",
        "--ctx-size": "8192",
        "--parallel": "3",
        "--batch-size": "2048",
        "--ubatch-size": "256",
        "--cache-type-k": "q8_0",
        "--cache-type-v": "q4_0",
        "--flash-attn": "auto",
        "--n-gpu-layers": "999",
    }


def test_newer_options_are_used_only_if_the_engine_supports_them():
    assert "--kv-unified" not in plan().argv
    assert "--kv-unified" in plan("--kv-unified").argv
    assert "--no-kv-unified" in plan("--kv-unified", "--no-kv-unified", kv_unified=False).argv
    assert option(plan("--cache-ram").argv, "--cache-ram") == "0"
    assert "--cache-ram" not in plan().argv


CACHE_FLAGS = ("--cache-ram", "--cache-idle-slots", "--no-cache-idle-slots")


def cache_arguments(slots_folder: str = "", **settings: object) -> list[str]:
    model = replace(a_model("qwen"), launch=a_launch(**settings))
    argv = launch_plan(model, an_engine(*CACHE_FLAGS), {}, "secret", 0, slots_folder).argv
    return [argv[n + 1] if word == "--cache-ram" else word for n, word in enumerate(argv) if word in CACHE_FLAGS]


def test_idle_slots_are_emptied_into_the_prompt_cache_where_they_fit_and_are_not_saved_to_disk():
    sizes = {"prompt_cache": 300 * MIB + 1}
    assert cache_arguments(**sizes) == ["300", "--no-cache-idle-slots"]
    assert cache_arguments(**sizes, parks_idle_slots=True) == ["300", "--cache-idle-slots"]
    assert cache_arguments(**sizes, parks_idle_slots=True, slots_folder="/slots") == ["300", "--no-cache-idle-slots"]
    assert cache_arguments(parks_idle_slots=True) == ["0"]


def test_what_the_arguments_say_of_idle_slots_holds():
    said = cache_arguments(prompt_cache=MIB, parks_idle_slots=True, args=("--no-cache-idle-slots",))
    assert said == ["--no-cache-idle-slots", "1"]


def test_the_prompt_cache_makes_no_difference_to_what_is_known_of_a_start():
    """Its size depends on what is free: measurements and saved caches must be found again."""
    launch = a_launch(prompt_cache=MIB, parks_idle_slots=True)
    assert without_prompt_cache(launch) == a_launch()


def test_a_memory_projection_is_requested_only_if_the_engine_supports_it():
    argv = plan("-fit", "--log-jsonl", "-lv").argv
    assert (option(argv, "-fit"), option(argv, "-lv")) == ("on", "4")
    for without in (plan("-fit", "-lv"), plan("--log-jsonl", "-lv"), plan("-fit", "--log-jsonl", ctx_size=0)):
        assert "-lv" not in without.argv
    assert option(plan("-fit", "-lv").argv, "-fit") == "off"


def test_no_projection_is_requested_for_automatic_sizes():
    """-fit would reduce them."""
    for automatic in ({"ctx_size": 0}, {"n_gpu_layers": -1}):
        assert option(plan("-fit", "--log-jsonl", **automatic).argv, "-fit") == "off"


def test_the_embedded_engine_needs_no_json_log_for_a_projection():
    embedded = replace(an_engine("-fit", "-lv"), kind=EngineKind.EMBEDDED)
    argv = launch_plan(a_model(), embedded, {}, api_key="", port=0).argv
    assert (option(argv, "-fit"), option(argv, "-lv")) == ("on", "4")


def test_slots_are_saved_only_with_a_folder():
    assert "--slot-save-path" not in plan("--slot-save-path").argv
    argv = launch_plan(a_model(), an_engine(), {}, api_key="", port=0, slots_folder="/state/slots/a-1").argv
    assert option(argv, "--slot-save-path") == "/state/slots/a-1"


def test_a_projector_is_passed_to_an_engine_that_supports_it():
    assert option(plan("--mmproj", mmproj="/models/mmproj.gguf").argv, "--mmproj") == "/models/mmproj.gguf"
    assert "--mmproj" not in plan("--mmproj").argv
    assert "--mmproj" not in plan(mmproj="/models/mmproj.gguf").argv


def test_a_models_arguments_precede_ours_which_override_them():
    argv = plan(args=("--swa-full", "--ctx-size", "1")).argv
    assert argv[:4] == ("/bin/llama-server", "--swa-full", "--ctx-size", "1")
    assert argv[4] == "--model"
    assert option(argv[4:], "--ctx-size") == "4096"


def test_a_models_variables_override_shared_ones_and_ours_override_both():
    env = plan(env={"PATH": "/own", "MINE": "1", "LLAMA_API_KEY": "other", "CUDA_VISIBLE_DEVICES": "0"}).env
    assert env == {
        "PATH": "/own",
        "MINE": "1",
        "GGML_NO_BACKTRACE": "1",
        "LLAMA_API_KEY": "secret",
        "LLAMA_SERVER_ROUTER_PORT": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_backtraces_of_crashes_can_be_had():
    """ggml takes any value of the variable for yes, also 0."""
    assert "GGML_NO_BACKTRACE" not in plan(env={"GGML_NO_BACKTRACE": "0"}).env
    assert plan(env={"GGML_NO_BACKTRACE": "yes"}).env["GGML_NO_BACKTRACE"] == "yes"


def test_a_launch_on_gpus_sees_only_these_and_is_split_as_booked():
    estimate = Estimate((DeviceMemory(), DeviceMemory()), DeviceMemory(), Confidence.EXACT)
    placement = Placement(("GPU-b", "GPU-a"), (20, 13), 999, 8192, 4, estimate)
    model = replace(a_model(), launch=launch_on(a_launch(ctx_size=1), placement))
    found = launch_plan(model, an_engine(), {}, api_key="", port=0)
    assert found.env["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    options = {name: option(found.argv, name) for name in ("--tensor-split", "--n-gpu-layers", "--ctx-size")}
    assert options == {"--tensor-split": "20,13", "--n-gpu-layers": "999", "--ctx-size": "8192"}
    assert option(found.argv, "--n-cpu-moe") == "4"


def test_a_shared_split_has_its_mode_and_one_by_layers_or_on_one_gpu_has_none():
    estimate = Estimate((DeviceMemory(), DeviceMemory()), DeviceMemory(), Confidence.LOW)
    two = Placement(("GPU-a", "GPU-b"), (33, 33), 999, 8192, 0, estimate, shares=(1, 2))
    one = replace(two, uuids=("GPU-a",), layers=(33,), shares=())
    modes = []
    for placement in (two, replace(two, shares=()), one):
        model = replace(a_model(), launch=launch_on(a_launch(split_mode="tensor"), placement))
        argv = launch_plan(model, an_engine("-fit", "--log-jsonl"), {}, api_key="", port=0).argv
        modes.append(("--split-mode" in argv, "--tensor-split" in argv, option(argv, "-fit")))
    assert modes == [(True, True, "off"), (False, True, "on"), (False, False, "on")]


IN_RAM = {"overrides": (("exps", "CPU"), ("a|b", "CPU")), "kv_offload": False, "mmproj_offload": False}


def test_what_stays_in_ram_is_passed_to_a_launch_on_gpus():
    argv = plan(**IN_RAM).argv
    assert option(argv, "--override-tensor") == "exps=CPU,a|b=CPU"
    assert {"--no-kv-offload", "--no-mmproj-offload"} < set(argv)


def test_a_launch_placed_on_the_cpu_sees_no_gpu():
    model = replace(a_model(), launch=launch_on(a_launch(**IN_RAM), on_the_cpu(1)))
    found = launch_plan(model, an_engine(), {}, api_key="", port=0)
    assert (found.env["CUDA_VISIBLE_DEVICES"], option(found.argv, "--n-gpu-layers")) == ("", "0")
    assert not {"--tensor-split", "--n-cpu-moe", "--override-tensor", "--no-kv-offload"} & set(found.argv)
    assert "--no-mmproj-offload" not in found.argv


def test_a_tiny_model_gets_one_thread():
    assert "--threads" not in plan().argv
    tiny = replace(a_model(), size_bytes=2_000_000)
    assert option(launch_plan(tiny, an_engine(), {}, api_key="", port=0).argv, "--threads") == "1"


@pytest.mark.parametrize("words", [("--threads", "2"), ("-t", "2"), ("--threads=2",)])
def test_a_tiny_model_gets_the_threads_that_are_configured(words: tuple[str, ...]):
    tiny = replace(a_model(), size_bytes=2_000_000, launch=replace(a_launch(), args=words))
    argv = launch_plan(tiny, an_engine(), {}, api_key="", port=0).argv
    assert [word for word in argv if word.startswith(("-t", "--threads"))] == [words[0]]


def test_flash_attention_is_a_switch_in_older_builds():
    old = replace(an_engine("--flash-attn"), switches=frozenset({"--flash-attn"}))
    for value, count in (("on", 1), ("auto", 0), ("off", 0)):
        model = replace(a_model(), launch=a_launch(flash_attn=value))
        argv = launch_plan(model, old, {}, api_key="", port=0).argv
        assert argv.count("--flash-attn") == count
        assert value not in argv


def test_the_api_key_is_only_in_the_environment():
    launch = plan()
    assert launch.env["LLAMA_API_KEY"] == "secret"
    assert "secret" not in " ".join(launch.argv)
    assert "secret" not in repr(launch)


def test_a_launch_without_a_placement_sees_no_gpu():
    assert plan().env["CUDA_VISIBLE_DEVICES"] == ""


def test_the_known_abort_is_avoided():
    """phi3, quantized cache, separate caches per slot: llama.cpp b11434 aborts."""
    aborts = a_launch(cache_type_k="q8_0", parallel=2, kv_unified=False)
    assert avoid_known_crash(aborts, "phi3") == a_launch(cache_type_k="q8_0", parallel=2, kv_unified=True)
    for harmless in (a_launch(cache_type_k="q8_0", parallel=1, kv_unified=False), a_launch(kv_unified=False)):
        assert avoid_known_crash(harmless, "phi3") == harmless
    assert avoid_known_crash(aborts, "llama") == aborts
