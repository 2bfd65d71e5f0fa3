"""How llama-server reads a model: the spellings of each engine, and what `load_mode: auto` means for one start.

Mapping a file makes the kernel read it page by page before anything is copied to a GPU; reading it into pinned buffers
copies while it reads (llama_model_loader::load_all_data, llama.cpp b11549). On the CPU a mapped file is used where it
is, and its pages can be dropped.

`auto` stays with the engine's own way unless it is known to be slow: for weights in RAM, with Vulkan, for tensors that
are split, and where the `args` or variables of the model say something themselves.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from app.entities.launch import ALL_LAYERS, EngineFacts, LaunchSettings, LoadMode
from app.entities.load import CACHED_SHARE
from app.entities.placement import Placement
from app.use_cases.estimate.load_staging import DIRECT_STAGING_BYTES
from app.use_cases.launch.parsed_args import option_pairs

_VALUES = {LoadMode.MMAP: "mmap", LoadMode.READ: "none", LoadMode.DIRECT: "dio"}  # of --load-mode
_SWITCHES = {  # of builds before it; the first is what an engine must have, except for its default
    LoadMode.MMAP: ("--mmap", "--no-direct-io"),
    LoadMode.READ: ("--no-mmap", "--no-direct-io"),
    LoadMode.DIRECT: ("--direct-io", "--no-mmap"),
}
# They say how to read, or depend on it.
_OWN_ARGUMENTS = frozenset({"--mmap", "--no-mmap", "--direct-io", "-dio", "--no-direct-io", "-ndio"}) | frozenset(
    {"--load-mode", "-lm", "--mlock", "--lazy-mode", "-lzm", "--numa", "--check-tensors"}
)
_OWN_VARIABLES = ("LLAMA_ARG_MMAP", "LLAMA_ARG_NO_MMAP", "LLAMA_ARG_DIO", "LLAMA_ARG_NO_DIO", "LLAMA_ARG_LOAD_MODE")

# Local ones, on which reading past the page cache was reported to be fast. Others ignore it or are slow with it.
DIRECT_FILE_SYSTEMS = frozenset({"ext4", "xfs", "btrfs", "f2fs"})
SPARE_BYTES = 1024**3  # beyond what a load takes for its buffers, so that `auto` never makes RAM short


class WeightsIn(enum.Enum):
    """Where the weights of a start go."""

    RAM = enum.auto()  # some of them at least
    GPUS = enum.auto()  # all, with CUDA, on GPUs with their own memory
    UNIFIED = enum.auto()  # all, with CUDA, on GPUs whose memory is RAM
    OTHER_GPUS = enum.auto()  # not with CUDA, or each tensor on several


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known about the model's file at the time of a start."""

    cached_share: float | None = None  # of it in the page cache
    file_system: str = ""  # its type
    mount: str = ""
    spare_ram_bytes: int = 0  # available, and not booked by anyone


@dataclass(frozen=True, slots=True)
class LoadChoice:
    """How a file is read. AUTO: as the engine itself does it."""

    mode: LoadMode
    reason: str
    file: FileFacts = FileFacts()  # as it was decided by


def offered_modes(engine: EngineFacts) -> frozenset[LoadMode]:
    """What can be asked of the engine. Old builds have no option for what they do by default."""
    if "--load-mode" in engine.flags:
        return frozenset(_VALUES)
    return frozenset(mode for mode, words in _SWITCHES.items() if words[0] in engine.flags or mode is LoadMode.MMAP)


def load_mode_arguments(mode: LoadMode, engine: EngineFacts) -> tuple[str, ...]:
    """The arguments, as this build spells them; none for AUTO, or if it has no such option."""
    if mode not in offered_modes(engine):
        return ()
    if "--load-mode" in engine.flags:
        return "--load-mode", _VALUES[mode]
    return tuple(word for word in _SWITCHES[mode] if word in engine.flags)


def weights_in(launch: LaunchSettings, placement: Placement) -> WeightsIn:
    """`launch`: as placed."""
    options = launch.options
    is_whole = options.n_gpu_layers >= ALL_LAYERS and not (options.n_cpu_moe or options.overrides)
    if placement.is_on_cpu or not is_whole:
        return WeightsIn.RAM
    if placement.vulkan_numbers or options.split_mode in ("row", "tensor"):
        return WeightsIn.OTHER_GPUS
    return WeightsIn.UNIFIED if placement.unified else WeightsIn.GPUS


def decides_itself(launch: LaunchSettings) -> bool:
    """Whether the model's arguments or variables say how to read it."""
    names = {option for option, _ in option_pairs(launch.args)}
    return bool(names & _OWN_ARGUMENTS) or any(name.upper() in _OWN_VARIABLES for name in launch.env)


def chosen_load_mode(
    launch: LaunchSettings, placement: Placement, offered: Collection[LoadMode], file: FileFacts
) -> LoadChoice:
    """How this start reads its file. `launch`: as placed."""
    configured = launch.options.load_mode
    if configured is not LoadMode.AUTO:
        if configured in offered:
            return LoadChoice(configured, "as configured")
        return LoadChoice(LoadMode.AUTO, f"the engine has no option for {configured}")
    if decides_itself(launch):
        return LoadChoice(LoadMode.AUTO, "as its args or env say")
    where = weights_in(launch, placement)
    if LoadMode.READ not in offered or where in (WeightsIn.RAM, WeightsIn.OTHER_GPUS):
        return LoadChoice(LoadMode.AUTO, "as the engine does by itself")
    if where is WeightsIn.GPUS:
        return LoadChoice(LoadMode.READ, "all weights go to GPUs")
    return _for_unified_memory(offered, file)


def _for_unified_memory(offered: Collection[LoadMode], file: FileFacts) -> LoadChoice:
    """The page cache and the weights would share RAM, so it is passed by where that is sure to work."""
    if file.cached_share is not None and file.cached_share >= CACHED_SHARE:
        return LoadChoice(LoadMode.READ, f"{100 * file.cached_share:.0f} % of the file is in the page cache")
    if LoadMode.DIRECT not in offered or file.file_system not in DIRECT_FILE_SYSTEMS:
        return LoadChoice(LoadMode.READ, "the GPU's memory is RAM")
    if file.spare_ram_bytes < DIRECT_STAGING_BYTES + SPARE_BYTES:
        return LoadChoice(LoadMode.READ, "the GPU's memory is RAM, and little of it is free")
    return LoadChoice(LoadMode.DIRECT, "the GPU's memory is RAM, and the file is not in the page cache")
