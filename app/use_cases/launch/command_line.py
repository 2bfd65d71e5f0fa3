"""The command line and environment of one llama-server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from app.entities.launch import EngineFacts, EngineKind, LaunchSettings, ModelOptions
from app.entities.model import Model
from app.entities.placement import Placement
from app.use_cases.estimate.kv_cache import is_quantized

ANY_PORT = 0
BUFFERS_LOGGED = "4"  # the verbosity at which llama.cpp logs every buffer it takes; its default is 3

# Below this, more threads only wait for each other: the 1.7 MB demo model makes 1,900 tokens/s with two threads on two
# idle cores, 2,990 with one, and 29 against 1,300 when the cores are busy (xllamacpp 2026.10.11549).
TINY_BYTES = 64 * 1024**2


# Each argument with the ModelOptions field it states. llama-server takes the last of repeated options, so these beat
# the model's `args`. A new argument belongs into the second table: one more in every command line would change the
# keys under which earlier loads are remembered (workers/measurement/history.py).
_ALWAYS = (
    ("--ctx-size", "ctx_size"),
    ("--parallel", "parallel"),
    ("--batch-size", "batch_size"),
    ("--ubatch-size", "ubatch_size"),
    ("--cache-type-k", "cache_type_k"),
    ("--cache-type-v", "cache_type_v"),
    ("--n-gpu-layers", "n_gpu_layers"),
)
_UNLESS_DEFAULT: tuple[tuple[str, Callable[[ModelOptions], str]], ...] = (
    # Shares are numbers of layers, so that llama.cpp's arithmetic cuts where they were booked.
    ("--tensor-split", lambda options: ",".join(f"{share:g}" for share in options.tensor_split)),
    ("--n-cpu-moe", lambda options: str(options.n_cpu_moe or "")),
)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What to execute. The API key is in `env`, never in `argv`, which every user of the machine can read."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)


def launch_on(launch: LaunchSettings, placement: Placement) -> LaunchSettings:
    """The settings of a start on the GPUs of its placement, or on the CPU."""
    gpus = () if placement.is_on_cpu else placement.uuids
    options = replace(
        launch.options,
        ctx_size=placement.ctx_size,
        n_gpu_layers=placement.n_gpu_layers,
        n_cpu_moe=placement.n_cpu_moe,
        devices=len(gpus),
        tensor_split=placement.tensor_split,
    )
    return replace(launch, options=options, gpus=gpus)


def launch_with_options(launch: LaunchSettings, options: ModelOptions) -> LaunchSettings:
    """The settings of a start with the options of a candidate placement, which names no GPUs yet."""
    return replace(launch, options=options if options.devices else replace(options, n_cpu_moe=0))


def launch_plan(
    model: Model, engine: EngineFacts, env: Mapping[str, str], api_key: str, port: int, slots_folder: str = ""
) -> LaunchPlan:
    """How to start `engine` with `model` on a loopback `port` (ANY_PORT: chosen by the kernel). Slots may be saved only
    in `slots_folder`.

    Every argument that decides about memory is given, so that no default of a newer build changes what was
    booked; options the engine does not name in its --help are left out. `env` is the scrubbed environment every
    child gets. The model's own arguments and variables stand before ours: llama-server takes the last of repeated
    options, and ours are what was booked.
    """
    settings, options = model.launch, model.launch.options
    argv = [
        *engine.command,
        *(("--threads", "1") if model.size_bytes < TINY_BYTES else ()),
        *settings.args,
        *("--model", model.path),
        *("--alias", model.name),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *(word for name, field in _ALWAYS for word in (name, str(getattr(options, field)))),
        *(word for name, text in _UNLESS_DEFAULT if (value := text(options)) for word in (name, value)),
        *_flash_attention(options.flash_attn, engine),
        *(("--slot-save-path", slots_folder) if slots_folder else ()),
    ]
    for option in (*_optional_arguments(settings), *_fit_arguments(settings, engine)):
        if option[0] in engine.flags:
            argv += option
    return LaunchPlan(tuple(argv), {**env, **settings.env, **_own_environment(api_key, settings.gpus)})


def reports_memory_need(settings: LaunchSettings, engine: EngineFacts) -> bool:
    """Whether this engine, started like this, says how much memory it will take before it loads its weights.

    `-fit on` makes it work that out with nothing allocated (common_fit_params, llama.cpp b11434): some 0.2 s, mostly
    for the vocabulary. Then it would shrink what nobody gave: the context (given, and not 0), the layers on GPUs and
    what depends on them (given, and not -1). So it changes nothing: without room it warns, and loads as it was told.
    A context of 0 is not left alone: with slots that have their own cells it would grow. Builds that have `-fit` and
    no --log-jsonl are not asked: level 4 of their log is the debug level.
    """
    is_pinned = settings.options.ctx_size > 0 and settings.options.n_gpu_layers >= 0
    can_tell = "--log-jsonl" in engine.flags or engine.kind is EngineKind.EMBEDDED
    return is_pinned and can_tell and "-fit" in engine.flags


def _fit_arguments(settings: LaunchSettings, engine: EngineFacts) -> list[tuple[str, ...]]:
    if not reports_memory_need(settings, engine):
        return [("-fit", "off")]  # what we booked is what is used: nothing is shrunk behind our back
    return [("-fit", "on"), ("-lv", BUFFERS_LOGGED)]


def _flash_attention(wanted: str, engine: EngineFacts) -> tuple[str, ...]:
    """Older builds have a switch without a value, and no "auto"."""
    if "--flash-attn" in engine.switches:
        return ("--flash-attn",) if wanted == "on" else ()
    return ("--flash-attn", wanted)


def _own_environment(api_key: str, gpus: tuple[str, ...]) -> dict[str, str]:
    return {
        "LLAMA_API_KEY": api_key,
        "LLAMA_SERVER_ROUTER_PORT": "1",  # builds that know it end by themselves when their stdin closes
        # UUIDs: CUDA counts GPUs otherwise than NVML. None: a CUDA build without layers on a GPU would compute there.
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }


def _optional_arguments(settings: LaunchSettings) -> list[tuple[str, ...]]:
    """Options that not every build has, with the reason for each."""
    projector = [("--mmproj", settings.mmproj)] if settings.mmproj else []
    return [
        *projector,
        ("--kv-unified",)
        if settings.options.kv_unified
        else ("--no-kv-unified",),  # before it, slots always had their own cells
        ("--cache-ram", "0"),  # 8 GiB of RAM for old prompts by default, and nobody booked them
        ("--log-jsonl",),  # the level of each log line, so that a failed load can be explained; what it needs, as data
        ("--no-webui",),  # one page is enough: ours
        ("--slots",),
        ("--metrics",),
    ]


def avoid_known_crash(launch: LaunchSettings, architecture: str) -> LaunchSettings:
    """The settings to start a model of this architecture with: as they are, unless llama.cpp would abort.

    phi3 with a quantized cache and slots that have their own cells: its graph has more nodes than there is room for
    ("fatal error" in ggml-impl.h while the context is made; b11434). The same slots may share the cells.
    """
    options = launch.options
    has_blocks = is_quantized(options.cache_type_k) or is_quantized(options.cache_type_v)
    if architecture == "phi3" and has_blocks and options.parallel > 1:
        return replace(launch, options=replace(options, kv_unified=True))
    return launch
