"""The command line and environment of one llama-server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from app.entities.launch import EngineFacts, EngineKind, LaunchSettings, ModelOptions
from app.entities.model import Model
from app.entities.placement import Placement
from app.use_cases.estimate.kv_cache import is_quantized
from app.use_cases.estimate.shared_tensors import is_shared
from app.use_cases.launch.load_mode import load_mode_arguments
from app.use_cases.launch.parsed_args import option_pairs

ANY_PORT = 0
KEY_VARIABLE = "LLAMA_API_KEY"
VULKAN_VARIABLE = "GGML_VK_VISIBLE_DEVICES"
BUFFERS_LOGGED = "4"  # the verbosity at which llama.cpp logs every buffer it allocates; the default is 3

# Below this size, more threads only wait for each other: the 1.7 MB demo model generates 1,900 tokens/s with two
# threads on two idle cores and 2,990 with one; on busy cores 29 and 1,300 (xllamacpp 2026.10.11549).
TINY_BYTES = 64 * 1024**2
MIB = 1024**2
PROMPT_CACHE_OPTION = "--cache-ram"
PARK_IDLE_SLOTS, KEEP_IDLE_SLOTS = "--cache-idle-slots", "--no-cache-idle-slots"


# Each argument with the ModelOptions attribute. llama-server uses the last of repeated options, so these override the
# model's `args`. Add new arguments to the second table: a change to every command line would change the keys under
# which earlier loads are stored (workers/measurement/history.py).
_ALWAYS = (
    ("--ctx-size", "ctx_size"),
    ("--parallel", "parallel"),
    ("--batch-size", "batch_tokens"),
    ("--ubatch-size", "ubatch_tokens"),
    ("--cache-type-k", "cache_type_k"),
    ("--cache-type-v", "cache_type_v"),
    ("--n-gpu-layers", "n_gpu_layers"),
)
_UNLESS_DEFAULT: tuple[tuple[str, Callable[[ModelOptions], str]], ...] = (
    # Shares are numbers of layers, so that llama.cpp splits the model exactly as booked.
    ("--tensor-split", lambda options: ",".join(f"{share:g}" for share in options.tensor_split)),
    ("--split-mode", lambda options: options.split_mode if is_shared(options) else ""),
    ("--n-cpu-moe", lambda options: str(options.n_cpu_moe or "")),
    ("--override-tensor", lambda options: ",".join(f"{pattern}={buffer}" for pattern, buffer in options.overrides)),
)
_SWITCHES_UNLESS_DEFAULT: tuple[tuple[str, Callable[[ModelOptions], bool]], ...] = (
    ("--no-kv-offload", lambda options: not options.kv_offload),
    ("--no-mmproj-offload", lambda options: not options.mmproj_offload),
)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The command and environment. The API key is in `env`, never in `argv`, which all local users can read."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)


def launch_on(launch: LaunchSettings, placement: Placement) -> LaunchSettings:
    """The settings for a launch with this placement, on GPUs or on the CPU."""
    gpus = () if placement.is_on_cpu else placement.uuids
    options = replace(
        launch.options,
        ctx_size=placement.ctx_size,
        n_gpu_layers=placement.n_gpu_layers,
        n_cpu_moe=placement.n_cpu_moe,
        devices=len(gpus),
        tensor_split=placement.tensor_split,
        prompt_cache=placement.prompt_cache_bytes,
        parks_idle_slots=placement.parks_idle_slots,
        speculation=placement.speculation or launch.options.speculation,
        split_mode=launch.options.split_mode if placement.shares else "layer",
    )
    options = options if gpus else options.without_gpus
    launch = with_draft_head(launch, placement.draft_head)
    return replace(launch, options=options, gpus=gpus, vulkan_numbers=placement.vulkan_numbers)


def with_draft_head(launch: LaunchSettings, path: str) -> LaunchSettings:
    """The settings, with a file that drafts tokens; "" for none."""
    return replace(launch, args=(*launch.args, "--model-draft", path)) if path else launch


def launch_with_options(launch: LaunchSettings, options: ModelOptions) -> LaunchSettings:
    """The settings for a launch with the options of a candidate placement, which names no GPUs yet."""
    return replace(launch, options=options if options.devices else options.without_gpus)


def without_prompt_cache(launch: LaunchSettings) -> LaunchSettings:
    """The settings, for what the prompt cache makes no difference to."""
    return replace(launch, options=replace(launch.options, prompt_cache=0, parks_idle_slots=False))


def launch_plan(
    model: Model, engine: EngineFacts, env: Mapping[str, str], api_key: str, port: int, slots_folder: str = ""
) -> LaunchPlan:
    """How to start `engine` with `model` on a loopback `port` (ANY_PORT: chosen by the kernel). Slots may be saved only
    in `slots_folder`.

    Every argument that affects memory is set, so that a newer build's defaults do not change what was booked;
    options missing from the engine's --help are omitted. `env` is the scrubbed environment of all child processes.
    The model's own arguments and variables precede ours: llama-server uses the last of repeated options, and ours
    are what was booked.
    """
    settings, options = model.launch, model.launch.options
    argv = [
        *engine.command,
        *_one_thread(model),
        *settings.args,
        *("--model", model.path),
        *("--alias", model.name),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *(word for name, field in _ALWAYS for word in (name, str(getattr(options, field)))),
        *(word for name, text in _UNLESS_DEFAULT if (value := text(options)) for word in (name, value)),
        *(name for name, is_set in _SWITCHES_UNLESS_DEFAULT if is_set(options)),
        *_flash_attention(options.flash_attn, engine),
        *load_mode_arguments(options.load_mode, engine),
        *(("--slot-save-path", slots_folder) if slots_folder else ()),
    ]
    optional = _optional_arguments(settings, keeps_slots=bool(slots_folder))
    for option in (*optional, *_fit_arguments(settings, engine)):
        if option[0] in engine.flags:
            argv += option
    environment = _with_backtrace_choice({**env, **settings.env})
    return LaunchPlan(tuple(argv), {**environment, **_own_environment(api_key, settings)})


def _one_thread(model: Model) -> tuple[str, ...]:
    """For a tiny model, unless its number of threads is configured."""
    is_configured = not {"-t", "--threads"}.isdisjoint(option for option, _ in option_pairs(model.launch.args))
    return ("--threads", "1") if model.size_bytes < TINY_BYTES and not is_configured else ()


def _with_backtrace_choice(env: Mapping[str, str]) -> dict[str, str]:
    """No backtrace when llama.cpp aborts, unless `env` has GGML_NO_BACKTRACE: 0.

    It runs gdb for it, if there is one (ggml.c, ggml_print_backtrace), which outlasts the crash by seconds; until then
    the requests wait and the memory is held. ggml takes any value, also an empty one, for yes.
    """
    if env.get("GGML_NO_BACKTRACE") in ("", "0"):
        return {name: value for name, value in env.items() if name != "GGML_NO_BACKTRACE"}
    return {"GGML_NO_BACKTRACE": "1", **env}


def reports_memory_need(settings: LaunchSettings, engine: EngineFacts) -> bool:
    """Whether the engine, launched with these settings, reports its memory need before it loads the weights.

    `-fit on` makes it compute the need without allocating (common_fit_params, llama.cpp b11434): about 0.2 s, mostly
    for the vocabulary. It then reduces only values that are not set: the context (set unless 0), and the layers on
    GPUs and what depends on them (set unless -1). With both set it changes nothing: if memory is short, it warns and
    loads as configured. A context of 0 is excluded, because with separate caches per slot it would grow. Builds with
    `-fit` but without --log-jsonl are excluded too: level 4 of their log is the debug level. So is split mode tensor,
    for which it is not implemented (common/fit.cpp, common_params_fit_impl, b11549).
    """
    if is_shared(settings.options) and settings.options.split_mode == "tensor":
        return False
    has_fixed_sizes = settings.options.ctx_size > 0 and settings.options.n_gpu_layers >= 0
    can_report = "--log-jsonl" in engine.flags or engine.kind is EngineKind.EMBEDDED
    return has_fixed_sizes and can_report and "-fit" in engine.flags


def _fit_arguments(settings: LaunchSettings, engine: EngineFacts) -> list[tuple[str, ...]]:
    if not reports_memory_need(settings, engine):
        return [("-fit", "off")]  # the engine must use what was booked, without reducing it
    return [("-fit", "on"), ("-lv", BUFFERS_LOGGED)]


def _flash_attention(value: str, engine: EngineFacts) -> tuple[str, ...]:
    """The option; in older builds it is a switch without a value, and "auto" does not exist."""
    if "--flash-attn" in engine.switches:
        return ("--flash-attn",) if value == "on" else ()
    return ("--flash-attn", value)


def _own_environment(api_key: str, settings: LaunchSettings) -> dict[str, str]:
    numbers = settings.vulkan_numbers
    return {
        # In this order: Vulkan0 is the first of them, and --tensor-split counts like that.
        **({VULKAN_VARIABLE: ",".join(map(str, numbers))} if numbers else {}),
        KEY_VARIABLE: api_key,
        "LLAMA_SERVER_ROUTER_PORT": "1",  # builds that support it exit when their stdin closes
        # UUIDs, because CUDA and NVML number GPUs differently. Empty for the CPU: a CUDA build would compute on a GPU
        # even without layers there.
        "CUDA_VISIBLE_DEVICES": "" if numbers else ",".join(settings.gpus),
    }


def _optional_arguments(settings: LaunchSettings, keeps_slots: bool) -> list[tuple[str, ...]]:
    """Options that some builds lack."""
    projector = [("--mmproj", settings.mmproj)] if settings.mmproj else []
    options = settings.options
    drafts = [("--spec-type", options.speculation)] if options.speculation != "none" else []
    if options.speculation.startswith("draft"):
        drafts.append(("--spec-draft-n-max", str(options.draft_max)))
    return [
        *projector,
        *drafts,
        ("--kv-unified",)
        if settings.options.kv_unified
        else ("--no-kv-unified",),  # older builds always have separate caches
        *_prompt_cache(settings, keeps_slots),
        ("--log-jsonl",),  # log levels, to explain failed loads, and the memory need as JSON
        ("--slots",),
        ("--metrics",),
    ]


def _prompt_cache(settings: LaunchSettings, keeps_slots: bool) -> list[tuple[str, ...]]:
    """llama-server's default is 8 GiB of RAM, whatever is free, and to empty idle slots, whatever fits.

    Slots that are to be saved to disk keep their conversations: the cache itself cannot be saved. What the `args` say
    about idle slots holds.
    """
    options = settings.options
    if options.prompt_cache <= 0:
        return [(PROMPT_CACHE_OPTION, "0")]
    size = (PROMPT_CACHE_OPTION, str(options.prompt_cache // MIB))
    if {PARK_IDLE_SLOTS, KEEP_IDLE_SLOTS} & {*settings.args}:
        return [size]
    return [size, (PARK_IDLE_SLOTS if options.parks_idle_slots and not keeps_slots else KEEP_IDLE_SLOTS,)]


def avoid_known_crash(launch: LaunchSettings, architecture: str) -> LaunchSettings:
    """The settings, changed only if llama.cpp would abort with them for this architecture.

    phi3 with a quantized cache and separate caches per slot exceeds the maximum number of graph nodes ("fatal error"
    in ggml-impl.h while the context is created; b11434). A cache shared by the slots works.
    """
    options = launch.options
    has_quantized_cache = is_quantized(options.cache_type_k) or is_quantized(options.cache_type_v)
    if architecture == "phi3" and has_quantized_cache and options.parallel > 1:
        return replace(launch, options=replace(options, kv_unified=True))
    return launch
