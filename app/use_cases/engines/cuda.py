"""Which CUDA toolkit builds an engine for the cards of this machine, and for which architectures.

A driver runs what was built with its own major version of CUDA, whatever the minor one, and with earlier ones (NVIDIA,
CUDA Compatibility). CUDA 13 has no code for cards older than Turing, compute capability 7.5 (CUDA 13.0 release notes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Version = tuple[int, int]  # of CUDA: (13, 0); or a compute capability: (8, 9)

# From 12.0 on, ggml builds architecture-specific code (120a): it runs on no other card, not even of its family.
_SPECIFIC_SINCE = 12
_FIRST_DRIVERS = {11: "450", 12: "525", 13: "580"}  # of each major version of CUDA, on Linux


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A CUDA toolkit with which an engine can be built."""

    root: str  # its folder, with bin/nvcc; "" for the packages, which are not installed yet
    version: Version
    codes: frozenset[Version]  # compute capabilities that its compiler has code for

    @property
    def label(self) -> str:
        return f"CUDA {_text(self.version)}" + (f" ({self.root})" if self.root else " (NVIDIA's packages on PyPI)")


# `cuda-toolkit` 13.0 on PyPI. NVIDIA's packages for CUDA 12 have no nvcc, only what it calls.
PACKAGED = Toolkit(
    "",
    (13, 0),
    frozenset(((7, 5), (8, 0), (8, 6), (8, 7), (8, 8), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1))),
)


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """What to build with, and for which cards."""

    toolkit: Toolkit
    architectures: tuple[str, ...]  # of the code that is built, as compute capabilities: "8.9"
    left_out: tuple[str, ...] = ()  # compute capabilities of cards here that the toolkit has no code for


class NoToolkit(Exception):
    """No toolkit fits driver and cards. The message is one line: why, and what to do."""


def cuda_target(found: Sequence[Toolkit], driver: Version | None, cards: Sequence[Version]) -> CudaTarget:
    """The toolkit that builds for the most of these cards, of equals the first; the packages come last.

    `driver`: the newest CUDA that the driver supports, None if it is not known; `cards`: their compute capabilities.
    Raises NoToolkit.
    """
    if not cards:
        raise NoToolkit("the compute capabilities of this machine's GPUs cannot be read: nvidia-smi says why")
    usable = [each for each in (*found, PACKAGED) if driver is None or each.version[0] <= driver[0]]
    if not usable:
        raise NoToolkit(_driver_too_old(driver or (0, 0), found))
    best = max(usable, key=lambda toolkit: sum(_code_for(card, toolkit) is not None for card in cards))
    codes = {card: _code_for(card, best) for card in cards}
    if built := {code for code in codes.values() if code}:
        left_out = {card for card, code in codes.items() if code is None}
        return CudaTarget(best, _texts(built), _texts(left_out))
    raise NoToolkit(_cards_too_old(cards, usable))


def has_code_for(architectures: Sequence[str], card: Version | None) -> bool:
    """Whether an engine with code for these architectures runs on a card; not known (none, None) counts as yes."""
    return not architectures or card is None or runs_on(architectures, card)


def runs_on(architectures: Sequence[str], card: Version) -> bool:
    """Whether code for these architectures runs on a card of this compute capability."""
    return any(_covers(parse_version(each), card) for each in architectures)


def parse_version(text: str) -> Version:
    """ "13.0" as (13, 0). Raises ValueError."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _code_for(card: Version, toolkit: Toolkit) -> Version | None:
    """The newest code of the toolkit that runs on the card."""
    return max((code for code in toolkit.codes if _covers(code, card)), default=None)


def _covers(code: Version, card: Version) -> bool:
    return code == card or (code[0] == card[0] < _SPECIFIC_SINCE and code[1] <= card[1])


def _driver_too_old(driver: Version, found: Sequence[Toolkit]) -> str:
    needed = min(each.version[0] for each in (*found, PACKAGED))
    update = f"update the driver to {_FIRST_DRIVERS.get(needed, 'a newer one')} or later"
    return (
        f"the driver supports CUDA {_text(driver)}, and nvcc is here only in CUDA {needed}: {update}, "
        f"or install the toolkit of CUDA {driver[0]} with its nvcc (NVIDIA's packages on PyPI have none before 13)"
    )


def _cards_too_old(cards: Sequence[Version], usable: Sequence[Toolkit]) -> str:
    tried = ", ".join(f"CUDA {_text(each.version)}" for each in usable)
    return (
        f"no code for compute capability {', '.join(_texts(set(cards)))} in {tried}: "
        "install the toolkit of CUDA 12, the last for cards older than Turing, and a driver for it, or use --vulkan"
    )


def _texts(versions: set[Version]) -> tuple[str, ...]:
    return tuple(_text(each) for each in sorted(versions))


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
