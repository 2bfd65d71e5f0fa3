"""Replayed device: the layers of one device, and those that it computes for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.use_cases.estimate.graph_replay import GraphReplay
from app.use_cases.estimate.replayed_layer import experts_of_another, layer_without_experts, whole_layer
from app.use_cases.model_shape.layers import Layer

# Weights of a network in the order of the graph: with the last that is in RAM begins the last split of the layer.
NETWORK_WEIGHTS = (
    *("ffn_gate", "ffn_up", "ffn_down"),
    *(f"ffn_{each}_exps{of}" for each in ("gate_up", "gate", "up", "down") for of in ("", ".bias")),
    *("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", "post_ffw_norm"),
)

LayerReplay = Callable[[GraphReplay, bool], None]
InRam = Mapping[int, frozenset[str]]  # by layer: the kinds of weights that are in RAM while the others are not


class Repeated:
    """What layers have left behind, by what they found: an equal layer that finds the same need not be replayed."""

    def __init__(self) -> None:
        self.after: dict[Any, tuple[int, int]] = {}  # the state's number, and the peak on the way
        self.states: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, state: Any) -> int:
        found = self._numbers.setdefault(state, len(self.states))
        if found == len(self.states):
            self.states.append(state)
        return found


class ReplayedDevice:
    """One device's layers."""

    def __init__(self, replay: GraphReplay, own: range, moved: InRam, repeated: Repeated) -> None:
        self.replay, self.own, self.moved, self._repeated = replay, own, moved, repeated
        self.layers = replay.shape.each_layer
        self._last = replay.shape.hparams.n_layer - 1
        self._added: set[Any] = set()
        self._peak = self._state = self._replayed = 0  # the last two: a number, and that of the replay

    def first_bytes(self, before: range, elsewhere: Sequence[int]) -> int:
        """The first device that computes: it also computes with the weights in RAM."""
        replay = self.replay
        if before or self.own:
            replay.begin([] if before else self._until_copies(self.own.start))
        self._begin()
        for il in before:
            self._add_from_ram(il, is_last=il == before.stop - 1)
        replay.has_weights_in_ram, replay.has_cache_in_ram = False, not replay.options.kv_offload
        for il in self.own:
            self._add_own(il)
        own = {self.layers[il].kind_with_types for il in self.own if il in self.moved}
        for il in elsewhere:
            if self.layers[il].kind_with_types not in own:  # else it has less beside its experts than such a layer had
                replay.in_ram, replay.after_copies = self.moved[il], ()
                self._add(il, experts_of_another, self.layers[il].kind_with_types)
        return self._peak

    def other_bytes(self) -> int:
        replay = self.replay
        replay.has_cache_in_ram = not replay.options.kv_offload
        replay.begin_after_another(self._until_copies(self.own.start))
        self._begin()
        for il in self.own:
            if il in self.moved:
                replay.in_ram, replay.after_copies = (), self._until_copies(il + 1)
                self._add(il, layer_without_experts, (self.layers[il].kind, _masks(replay.after_copies)))
            else:
                self._add_own(il)
        return self._peak

    def _begin(self) -> None:
        self._peak = self.replay.allocator.peak
        self._state = self._replayed = self._repeated.number(self.replay.state)

    def _add_from_ram(self, il: int, is_last: bool) -> None:
        replay = self.replay
        replay.in_ram, replay.has_weights_in_ram, replay.has_cache_in_ram = self.layers[il].weights, True, True
        if is_last and self.own:
            replay.last_copied = max(replay.in_ram, key=_order, default="")
            replay.after_copies = self._until_copies(self.own.start)
        self._add(il, whole_layer, (self.layers[il].kind_with_types, is_last))

    def _add_own(self, il: int) -> None:
        replay, layer = self.replay, self.layers[il]
        kinds = self.moved.get(il)
        if not kinds:
            replay.in_ram = ()
            self._add(il, whole_layer, layer.kind)
            return
        replay.in_ram, replay.last_copied = kinds, max(kinds, key=_order)
        replay.after_copies = self._until_copies(il + 1)
        self._add(il, whole_layer, (layer.kind_with_types, kinds, _masks(replay.after_copies)))

    def _add(self, il: int, how: LayerReplay, kind: Any) -> None:
        key, is_last = (how, kind, self._state), il == self._last
        if is_last and key in self._added:
            return  # it has no network, and nothing comes after it
        self._added.add(key)
        found = self._repeated.after.get((*key, is_last))
        if found is None:
            found = self._repeated.after[*key, is_last] = self._made(il, how)
        self._state, peak = found
        self._peak = max(self._peak, peak)

    def _made(self, il: int, how: LayerReplay) -> tuple[int, int]:
        replay = self.replay
        if self._state != self._replayed:
            replay.state = self._repeated.states[self._state]
        replay.allocator.peak = 0
        replay.layer = self.layers[il]
        how(replay, il == self._last)
        self._replayed = self._repeated.number(replay.state)
        return self._replayed, replay.allocator.peak

    def _until_copies(self, start: int) -> list[Layer]:
        """The layers of a split: up to the first that has weights in RAM. One of each kind of mask."""
        found: list[Layer] = []
        for il in range(start, self.own.stop):
            if all(each.is_windowed != self.layers[il].is_windowed for each in found):
                found.append(self.layers[il])
            if il in self.moved:
                break
        return found


def _masks(layers: Sequence[Layer]) -> tuple[bool, ...]:
    return tuple(each.is_windowed for each in layers)


def _order(kind: str) -> int:
    return NETWORK_WEIGHTS.index(kind) if kind in NETWORK_WEIGHTS else -1
