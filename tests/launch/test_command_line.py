"""The command line of a llama-server."""

from __future__ import annotations

from app.entities.launch import EngineKind, LaunchSettings
from app.entities.memory import Confidence, DeviceMemory, Estimate
from app.entities.placement import Placement
from app.use_cases.launch.command_line import avoid_known_crash, launch_on, launch_plan
from tests.helpers.builders import a_launch, a_model, an_engine, on_the_cpu, replace


def plan(*flags: str, **settings: object):
    model = replace(a_model("qwen"), launch=a_launch(**settings))
    return launch_plan(model, an_engine(*flags), {"PATH": "/bin"}, api_key="secret", port=0)


def option(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_every_argument_that_decides_about_memory_is_given():
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


def test_newer_options_are_used_where_the_engine_names_them_and_only_there():
    assert "--kv-unified" not in plan().argv
    assert "--kv-unified" in plan("--kv-unified").argv
    assert "--no-kv-unified" in plan("--kv-unified", "--no-kv-unified", kv_unified=False).argv
    assert option(plan("--cache-ram").argv, "--cache-ram") == "0"
    assert "--cache-ram" not in plan().argv


def test_an_engine_that_can_say_what_it_needs_is_asked_and_no_other():
    asked = plan("-fit", "--log-jsonl", "-lv").argv
    assert (option(asked, "-fit"), option(asked, "-lv")) == ("on", "4")
    for silent in (plan("-fit", "-lv"), plan("--log-jsonl", "-lv"), plan("-fit", "--log-jsonl", ctx_size=0)):
        assert "-lv" not in silent.argv
    assert option(plan("-fit", "-lv").argv, "-fit") == "off"


def test_what_is_not_given_would_be_shrunk_by_asking():
    for open_ended in ({"ctx_size": 0}, {"n_gpu_layers": -1}):
        assert option(plan("-fit", "--log-jsonl", **open_ended).argv, "-fit") == "off"


def test_the_embedded_engine_needs_no_json_to_be_asked():
    embedded = replace(an_engine("-fit", "-lv"), kind=EngineKind.EMBEDDED)
    argv = launch_plan(a_model(), embedded, {}, api_key="", port=0).argv
    assert (option(argv, "-fit"), option(argv, "-lv")) == ("on", "4")


def test_slots_are_saved_where_it_is_said_and_nowhere_else():
    assert "--slot-save-path" not in plan("--slot-save-path").argv
    argv = launch_plan(a_model(), an_engine(), {}, api_key="", port=0, slots_folder="/state/slots/a-1").argv
    assert option(argv, "--slot-save-path") == "/state/slots/a-1"


def test_a_projector_is_given_to_an_engine_that_takes_one():
    assert option(plan("--mmproj", mmproj="/models/mmproj.gguf").argv, "--mmproj") == "/models/mmproj.gguf"
    assert "--mmproj" not in plan("--mmproj").argv
    assert "--mmproj" not in plan(mmproj="/models/mmproj.gguf").argv


def test_a_models_own_arguments_stand_before_ours_which_therefore_win():
    argv = plan(args=("--swa-full", "--ctx-size", "1")).argv
    assert argv[:4] == ("/bin/llama-server", "--swa-full", "--ctx-size", "1")
    assert argv[4] == "--model"
    assert option(argv[4:], "--ctx-size") == "4096"


def test_a_models_own_variables_win_over_the_shared_ones_and_ours_over_both():
    env = plan(env={"PATH": "/own", "MINE": "1", "LLAMA_API_KEY": "theirs", "CUDA_VISIBLE_DEVICES": "0"}).env
    assert env == {
        "PATH": "/own",
        "MINE": "1",
        "LLAMA_API_KEY": "secret",
        "LLAMA_SERVER_ROUTER_PORT": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_a_start_on_gpus_sees_them_alone_and_is_dealt_out_as_it_was_booked():
    estimate = Estimate((DeviceMemory(), DeviceMemory()), DeviceMemory(), Confidence.EXACT)
    placement = Placement(("GPU-b", "GPU-a"), (20, 13), 999, 8192, 4, estimate)
    model = replace(a_model(), launch=launch_on(a_launch(ctx_size=1), placement))
    found = launch_plan(model, an_engine(), {}, api_key="", port=0)
    assert found.env["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    given = {name: option(found.argv, name) for name in ("--tensor-split", "--n-gpu-layers", "--ctx-size")}
    assert given == {"--tensor-split": "20,13", "--n-gpu-layers": "999", "--ctx-size": "8192"}
    assert option(found.argv, "--n-cpu-moe") == "4"


def test_a_start_on_the_cpu_sees_no_gpu():
    model = replace(a_model(), launch=launch_on(LaunchSettings(), on_the_cpu(1)))
    found = launch_plan(model, an_engine(), {}, api_key="", port=0)
    assert (found.env["CUDA_VISIBLE_DEVICES"], option(found.argv, "--n-gpu-layers")) == ("", "0")
    assert not {"--tensor-split", "--n-cpu-moe"} & set(found.argv)


def test_a_tiny_model_gets_one_thread():
    assert "--threads" not in plan().argv
    tiny = replace(a_model(), size_bytes=2_000_000)
    assert option(launch_plan(tiny, an_engine(), {}, api_key="", port=0).argv, "--threads") == "1"


def test_flash_attention_is_a_switch_in_older_builds():
    old = replace(an_engine("--flash-attn"), switches=frozenset({"--flash-attn"}))
    for wanted, given in (("on", 1), ("auto", 0), ("off", 0)):
        model = replace(a_model(), launch=a_launch(flash_attn=wanted))
        argv = launch_plan(model, old, {}, api_key="", port=0).argv
        assert argv.count("--flash-attn") == given
        assert wanted not in argv


def test_the_key_is_in_the_environment_and_nowhere_else():
    made = plan()
    assert made.env["LLAMA_API_KEY"] == "secret"
    assert "secret" not in " ".join(made.argv)
    assert "secret" not in repr(made)


def test_a_model_on_the_cpu_sees_no_gpu():
    assert plan().env["CUDA_VISIBLE_DEVICES"] == ""


def test_the_known_abort_is_avoided():
    """phi3, quantized cache, slots with their own cells: llama.cpp b11434 ends with a fatal error."""
    aborts = a_launch(cache_type_k="q8_0", parallel=2, kv_unified=False)
    assert avoid_known_crash(aborts, "phi3") == a_launch(cache_type_k="q8_0", parallel=2, kv_unified=True)
    for harmless in (a_launch(cache_type_k="q8_0", parallel=1, kv_unified=False), a_launch(kv_unified=False)):
        assert avoid_known_crash(harmless, "phi3") == harmless
    assert avoid_known_crash(aborts, "llama") == aborts
