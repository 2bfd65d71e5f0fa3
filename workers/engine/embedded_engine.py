"""llama.cpp's own HTTP server from the xllamacpp wheel, with llama-server's command line. Runs as a script.

It imports none of our packages, and little else, as each load of a model waits for it. Python threads and signal
handlers do not run until the server is ready, because its constructor holds the GIL while it loads the model.
llama.cpp's own threads already answer then (/health: 503 "Loading model"), and they watch stdin if
LLAMA_SERVER_ROUTER_PORT is set.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_MISSING = "the embedded engine is not installed: pip install xllamacpp, or pipx inject llama-smart-proxy xllamacpp"
_INFO = 3  # the verbosity at which llama.cpp itself logs the address it listens on
_DESCRIPTION_COLUMN = 40  # where llama-server's help has its descriptions

Apply = Callable[[Any, str], None]  # (xllamacpp.CommonParams, the option's value)


@dataclass(frozen=True, slots=True)
class Option:
    """A command-line option: names, placeholder of its value ("" for a switch), help text, and effect."""

    names: tuple[str, ...]
    value: str
    help: str
    apply: Apply
    off: tuple[str, ...] = ()  # names that switch it off


class BadArgument(Exception):
    """The command line is invalid; the message is worded as llama-server's."""


def _set(field: str, kind: Callable[[str], object]) -> Apply:
    return lambda params, value: setattr(params, field, kind(value))


def _switch(field: str) -> Apply:
    return lambda params, value: setattr(params, field, value == "on")


def _on_or_off(field: str) -> Apply:
    return lambda params, value: setattr(params, field, {"on": True, "off": False}[value])


def _choice(field: str, enum: str, **members: str) -> Apply:
    """Set `field` to a member of an xllamacpp enum; `members` maps option values to member names."""

    def apply(params: Any, value: str) -> None:
        import xllamacpp

        setattr(params, field, getattr(xllamacpp, enum)[members[value]])

    return apply


def _no_effect(params: Any, value: str) -> None:
    """For options that are handled elsewhere or always on here."""


def _set_model(params: Any, value: str) -> None:
    params.model.path = value


def _set_threads(params: Any, value: str) -> None:
    params.cpuparams.n_threads = int(value)


def _set_projector(params: Any, value: str) -> None:
    params.mmproj.path = value


def _add_adapter(params: Any, value: str) -> None:
    import xllamacpp

    adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in _split_list(value)]
    params.lora_adapters = [*params.lora_adapters, *adapters]


def _add_scaled_adapter(params: Any, value: str) -> None:
    import xllamacpp

    pairs = [each.rpartition(":") for each in _split_list(value)]
    adapters = [xllamacpp.CommonAdapterLoraInfo(path, float(scale)) for path, _, scale in pairs]
    params.lora_adapters = [*params.lora_adapters, *adapters]


def _set_draft(params: Any, value: str) -> None:
    params.speculative.draft.mparams.path = value


def _set_draft_max(params: Any, value: str) -> None:
    params.speculative.draft.n_max = int(value)


def _set_speculation(params: Any, value: str) -> None:
    import xllamacpp

    kinds = xllamacpp.common_speculative_type
    names = [f"COMMON_SPECULATIVE_TYPE_{kind.upper().replace('-', '_')}" for kind in _split_list(value)]
    params.speculative.types = [kinds[name] for name in names]


def _set_batch_threads(params: Any, value: str) -> None:
    params.cpuparams_batch.n_threads = int(value)


def _set_rerank(params: Any, value: str) -> None:
    import xllamacpp

    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK


def _set_mmap(params: Any, value: str) -> None:
    import xllamacpp

    mode = "LLAMA_LOAD_MODE_AUTO" if value == "on" else "LLAMA_LOAD_MODE_NONE"
    params.load_mode = xllamacpp.llama_load_mode[mode]


def _set_context(params: Any, value: str) -> None:
    params.n_ctx = int(value)
    if params.n_ctx == 0:
        params.fit_params_min_ctx = -1  # as llama-server: -fit must not reduce the model's full context


def _set_slot_folder(params: Any, value: str) -> None:
    if not os.path.isdir(value):
        raise ValueError(value)
    params.slot_save_path = os.path.join(value, "")  # llama-server appends file names without a slash


def _set_template_file(params: Any, value: str) -> None:
    try:
        with open(value, encoding="utf-8") as file:
            params.chat_template = file.read()
    except OSError as error:
        raise ValueError(value) from error


def _set_reasoning(params: Any, value: str) -> None:
    params.enable_reasoning = {"on": 1, "off": 0, "auto": -1}[value]
    if value != "auto":
        thinks = "true" if value == "on" else "false"
        params.default_template_kwargs = {**params.default_template_kwargs, "enable_thinking": thinks}


def _set_reasoning_budget(params: Any, value: str) -> None:
    if int(value) < -1:
        raise ValueError(value)
    params.sampling.reasoning_budget_tokens = int(value)


def _set_reasoning_message(params: Any, value: str) -> None:
    params.sampling.reasoning_budget_message = value


def _split_list(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _gpu_layers(value: str) -> int:
    return {"auto": -1, "all": -2}[value] if value in ("auto", "all") else int(value)


def _tensor_split(value: str) -> list[float]:
    shares = [float(share) for share in value.replace("/", ",").split(",")]
    return shares + [0.0] * (128 - len(shares))


_CACHES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_CACHE_TYPES = {name: f"GGML_TYPE_{name.upper()}" for name in _CACHES}
_FLASH = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
_FLASH_TYPES = {word: f"LLAMA_FLASH_ATTN_TYPE_{name}" for word, name in _FLASH.items()}
_LOAD_MODES = {
    word: f"LLAMA_LOAD_MODE_{word.upper().replace('+', '_')}"
    for word in ("auto", "none", "mmap", "mlock", "mmap+mlock")
} | {"dio": "LLAMA_LOAD_MODE_DIRECT_IO"}
_SPLITS = {word: f"LLAMA_SPLIT_MODE_{word.upper()}" for word in ("none", "layer", "row", "tensor")}
_REASONINGS = {
    word: f"COMMON_REASONING_FORMAT_{word.upper().replace('-', '_')}"
    for word in ("none", "auto", "deepseek", "deepseek-legacy")
}
_NUMA = {word: f"GGML_NUMA_STRATEGY_{word.upper()}" for word in ("distribute", "isolate", "numactl")}
_POOLINGS = {word: f"LLAMA_POOLING_TYPE_{word.upper()}" for word in ("none", "mean", "cls", "last", "rank")}

_SPECULATIONS = ",".join(
    (
        *("none", "draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark"),
        *("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod"),
    )
)

OPTIONS = (
    Option(("-h", "--help", "--usage"), "", "print usage and exit", _no_effect),
    Option(("--version",), "", "show version and exit", _no_effect),
    Option(("--list-devices",), "", "print list of available devices and exit", _no_effect),
    Option(("-m", "--model"), "FNAME", "model path to load", _set_model),
    Option(
        ("-a", "--alias"),
        "STRING",
        "model name aliases, comma-separated",
        _set("model_alias", lambda v: {*_split_list(v)}),
    ),
    Option(("--host",), "HOST", "address to listen on (default: 127.0.0.1)", _set("hostnames", lambda v: [v])),
    Option(("--port",), "PORT", "port to listen on, 0 = any free one (default: 8080)", _set("port", int)),
    Option(("-c", "--ctx-size"), "N", "size of the prompt context, 0 = the model's (default: 0)", _set_context),
    Option(("-np", "--parallel"), "N", "number of server slots (default: 4)", _set("n_parallel", int)),
    Option(
        ("-kvu", "--kv-unified"),
        "",
        "one KV buffer shared by all slots (default: enabled)",
        _switch("kv_unified"),
        ("-no-kvu", "--no-kv-unified"),
    ),
    Option(("-b", "--batch-size"), "N", "logical maximum batch size (default: 2048)", _set("n_batch", int)),
    Option(("-ub", "--ubatch-size"), "N", "physical maximum batch size (default: 512)", _set("n_ubatch", int)),
    Option(("-t", "--threads"), "N", "CPU threads used in generation (default: -1)", _set_threads),
    Option(
        ("-ctk", "--cache-type-k"),
        "TYPE",
        "KV cache data type for K",
        _choice("cache_type_k", "ggml_type", **_CACHE_TYPES),
    ),
    Option(
        ("-ctv", "--cache-type-v"),
        "TYPE",
        "KV cache data type for V",
        _choice("cache_type_v", "ggml_type", **_CACHE_TYPES),
    ),
    Option(
        ("-fa", "--flash-attn"),
        "[on|off|auto]",
        "Flash Attention use (default: auto)",
        _choice("flash_attn_type", "llama_flash_attn_type", **_FLASH_TYPES),
    ),
    Option(
        ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        "N",
        "layers kept in VRAM: a number, auto or all (default: auto)",
        _set("n_gpu_layers", _gpu_layers),
    ),
    Option(
        ("-sm", "--split-mode"),
        "{none,layer,row,tensor}",
        "how to split the model across GPUs (default: layer)",
        _choice("split_mode", "llama_split_mode", **_SPLITS),
    ),
    Option(
        ("-fit", "--fit"),
        "[on|off]",
        "report the memory needed before loading, and reduce what was not set to fit (default: off)",
        _on_or_off("fit_params"),
    ),
    Option(
        ("-ts", "--tensor-split"), "N0,N1,N2,...", "share of the model on each GPU", _set("tensor_split", _tensor_split)
    ),
    Option(("-mg", "--main-gpu"), "INDEX", "the GPU to use without a split (default: 0)", _set("main_gpu", int)),
    Option(("-mm", "--mmproj"), "FILE", "path of a multimodal projector", _set_projector),
    Option(("--lora",), "FNAME", "paths of LoRA adapters, comma-separated", _add_adapter),
    Option(("--lora-scaled",), "FNAME:SCALE,...", "the same with their scales", _add_scaled_adapter),
    Option(("-md", "--model-draft"), "FNAME", "model that drafts tokens", _set_draft),
    Option(("--spec-type",), _SPECULATIONS, "comma-separated types of speculative decoding", _set_speculation),
    Option(("--spec-draft-n-max",), "N", "tokens drafted at a time (default: 3)", _set_draft_max),
    Option(
        ("--numa",),
        "{distribute,isolate,numactl}",
        "how threads are spread over NUMA nodes (default: as they come)",
        _choice("numa", "ggml_numa_strategy", **_NUMA),
    ),
    Option(("-tb", "--threads-batch"), "N", "CPU threads used for prompts (default: as --threads)", _set_batch_threads),
    Option(("-n", "--predict", "--n-predict"), "N", "tokens to predict, -1 = no limit", _set("n_predict", int)),
    Option(("--keep",), "N", "tokens of the prompt kept by a context shift (default: 0)", _set("n_keep", int)),
    Option(
        ("--context-shift",),
        "",
        "shift the context when it is full (default: disabled)",
        _switch("ctx_shift"),
        ("--no-context-shift",),
    ),
    Option(("--cache-reuse",), "N", "shortest chunk reused from the cache (default: 0)", _set("n_cache_reuse", int)),
    Option(("--swa-full",), "", "full-size SWA cache (default: disabled)", _switch("swa_full")),
    Option(("--rope-freq-base",), "N", "RoPE base frequency (default: the model's)", _set("rope_freq_base", float)),
    Option(("--rope-freq-scale",), "N", "RoPE frequency scaling factor", _set("rope_freq_scale", float)),
    Option(("--chat-template",), "TEMPLATE", "chat template, or the name of one", _set("chat_template", str)),
    Option(("--chat-template-file",), "FILE", "chat template of this file", _set_template_file),
    Option(
        ("--reasoning-format",),
        "FORMAT",
        "format of reasoning in answers: none, auto, deepseek, deepseek-legacy (default: deepseek)",
        _choice("reasoning_format", "common_reasoning_format", **_REASONINGS),
    ),
    Option(("-rea", "--reasoning"), "[on|off|auto]", "whether the model reasons (default: auto)", _set_reasoning),
    Option(("--reasoning-budget",), "N", "tokens of reasoning, -1 = no limit (default: -1)", _set_reasoning_budget),
    Option(("--reasoning-budget-message",), "MESSAGE", "text at the end of that budget", _set_reasoning_message),
    Option(("--embd-normalize",), "N", "normalization of embeddings (default: 2)", _set("embd_normalize", int)),
    Option(("-cram", "--cache-ram"), "N", "prompt cache in RAM, MiB (default: 8192)", _set("cache_ram_mib", int)),
    Option(
        ("--cache-idle-slots",),
        "",
        "move idle slots to the prompt cache when a request begins (default: enabled)",
        _switch("cache_idle_slots"),
        ("--no-cache-idle-slots",),
    ),
    Option(("--mmap",), "", "memory-map the model (default: enabled)", _set_mmap, ("--no-mmap",)),
    Option(
        ("-lm", "--load-mode"),
        "MODE",
        "how to read the model: auto, none, mmap, mlock, mmap+mlock, dio (default: auto)",
        _choice("load_mode", "llama_load_mode", **_LOAD_MODES),
    ),
    Option(("--embedding", "--embeddings"), "", "serve embeddings only", _switch("embedding")),
    Option(("--rerank", "--reranking"), "", "serve reranking only", _set_rerank),
    Option(
        ("--pooling",),
        "{none,mean,cls,last,rank}",
        "pooling of embeddings (default: the model's)",
        _choice("pooling_type", "llama_pooling_type", **_POOLINGS),
    ),
    Option(("--warmup",), "", "warm up with an empty run (default: enabled)", _switch("warmup"), ("--no-warmup",)),
    Option(("--metrics",), "", "serve /metrics (default: disabled)", _switch("endpoint_metrics")),
    Option(("--slot-save-path",), "PATH", "folder of saved slots (default: none)", _set_slot_folder),
    Option(("--slots",), "", "serve /slots (default: enabled)", _switch("endpoint_slots"), ("--no-slots",)),
    Option(("--jinja",), "", "use the model's chat template (default: enabled)", _switch("use_jinja"), ("--no-jinja",)),
    Option(("--no-ui", "--no-webui"), "", "no effect: there is no web UI", _no_effect),
    Option(("-lv", "--verbosity", "--log-verbosity"), "N", "log level, 0 to 5 (default: 3)", _set("verbosity", int)),
)


def main(arguments: Sequence[str]) -> int:
    # The default action ends the process at once, even during a load; Python handlers would wait for the GIL.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        chosen = _parse(arguments)
        if any(option.names[0] == "-h" for option, _ in chosen):
            print(help_text())
            return 0
        if any(option.names[0] == "--version" for option, _ in chosen):
            print(f"version: xllamacpp {_version()}", file=sys.stderr)
            return 0
        if any(option.names[0] == "--list-devices" for option, _ in chosen):
            print(_devices())
            return 0
        params = _params(chosen)
    except ModuleNotFoundError as error:
        if error.name != "xllamacpp":
            raise
        return _fail(_MISSING)
    except BadArgument as error:
        return _fail(str(error))
    return _serve(params)


def _version() -> str:
    from importlib import metadata  # takes as long as xllamacpp's own import

    return metadata.version("xllamacpp")


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _parse(arguments: Sequence[str]) -> list[tuple[Option, str]]:
    """The options given, each with its value ("on" or "off" for a switch). Raises BadArgument."""
    by_name = {name: option for option in OPTIONS for name in (*option.names, *option.off)}
    rest = iter(arguments)
    chosen = []
    for name in rest:
        option = by_name.get(name)
        if option is None:
            raise BadArgument(f"invalid argument: {name}")
        value = next(rest, None) if option.value else ("off" if name in option.off else "on")
        if value is None:
            raise BadArgument(f"expected value for argument: {name}")
        chosen.append((option, value))
    return chosen


def help_text() -> str:
    """The help in llama-server's format, so that one parser reads both. Needs no xllamacpp."""
    return "\n".join(_help_line(option) for option in OPTIONS)


def _help_line(option: Option) -> str:
    first, *rest = (*option.names, *option.off)
    left = f"{first + ',':<7}{', '.join(rest)}" if rest else first
    left = f"{left} {option.value}".rstrip()
    if len(left) > _DESCRIPTION_COLUMN - 3:
        left += "\n"
    return left + " " * (_DESCRIPTION_COLUMN - len(left.rpartition("\n")[2])) + option.help


def _devices() -> str:
    """The devices except the CPU, in the format of llama-server's --list-devices (llama.cpp, common/arg.cpp)."""
    import xllamacpp

    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    return "\n".join(
        [
            "Available devices:",
            *(_device_line(device) for device in xllamacpp.get_device_info() if device["type"] != cpu),
        ]
    )


def _device_line(device: dict[str, Any]) -> str:
    total, free = device["memory_total"] >> 20, device["memory_free"] >> 20
    return f"  {device['name']}: {device['description']} ({total} MiB, {free} MiB free)"


def _params(chosen: Sequence[tuple[Option, str]]) -> Any:
    """The xllamacpp.CommonParams for these options, with llama-server's defaults where xllamacpp's differ."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.port = 8080
    params.n_parallel, params.kv_unified = 4, True  # xllamacpp's: 1, not unified
    params.fit_params = False  # never change arguments to make the model fit
    params.ui, params.ui_mcp_proxy = False, False
    params.api_keys = _split_list(os.environ.get("LLAMA_API_KEY", ""))
    for option, value in chosen:
        try:
            option.apply(params, value)
        except (ValueError, KeyError, OverflowError):
            raise BadArgument(f'while handling argument "{option.names[-1]}": bad value: {value}') from None
    if not params.model.path:
        raise BadArgument("--model is required")
    return params


def _serve(params: Any) -> int:
    """Load the model and serve until killed. Returns 1 if the load failed; llama.cpp has then logged why to stderr."""
    import xllamacpp

    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        return 1  # llama.cpp's log explains the failure better than this exception
    if params.verbosity < _INFO:
        sys.stderr.write(f"listening on {server.listening_address}\n")
        sys.stderr.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
