"""A model's hyperparameters: the metadata of its header as llama.cpp reads it, with llama.cpp's defaults.

Source: llama.cpp b11434, src/llama-model.cpp (llama_model_base::load_hparams), src/llama-hparams.cpp.
"""

from __future__ import annotations

import math
from functools import cached_property

from app.entities.gguf import GgufHeader, Value
from app.use_cases.model_shape import architectures as arch

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_HUGE = 2**40  # above any count in a real file: keeps nonsense from becoming numbers of a million digits


class Hparams:
    """Values by key. A missing or non-numeric value becomes the default; nothing raises."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.architecture = header.architecture

    def value(self, key: str) -> Value | None:
        """The metadata value of `<architecture>.<key>`; None if missing."""
        return self.header.metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, default: int = 0) -> int:
        """A count; for an array, its largest element."""
        value = self.value(key)
        if isinstance(value, tuple):
            return max((_integer(each, 0) for each in value), default=default)
        return _integer(value, default)

    def per_layer(self, key: str, default: int = 0) -> tuple[int, ...]:
        """One count per layer, from a number or an array."""
        value = self.value(key)
        if not isinstance(value, tuple):
            return (_integer(value, default),) * self.n_layer_all
        known = tuple(_integer(each, default) for each in value[: self.n_layer_all])
        if 0 < len(value) < self.n_layer_all == len(value) * self._loops:
            return known * self._loops
        return known + (default,) * (self.n_layer_all - len(known))

    @cached_property
    def n_layer_all(self) -> int:
        """Number of layers, including trailing blocks for multi-token prediction (MTP)."""
        return min(self.integer("block_count") * self._loops + self.has_router_layer, MAX_LAYERS)

    @property
    def has_router_layer(self) -> bool:
        """Whether a layer without weights follows, whose cache of one head says which adapter a token uses."""
        return self.architecture in arch.WITH_ROUTER_LAYER

    @cached_property
    def _loops(self) -> int:
        """How often the blocks are passed through, each time with a cache of its own (src/models/nanbeige.cpp)."""
        return max(1, self.integer("num_loops", 1)) if self.architecture in arch.LOOPED else 1

    @cached_property
    def block_of(self) -> tuple[int, ...]:
        """The block whose weights each layer uses: its own, unless layers pass through the same blocks again."""
        stack = self.integer("hrm.layers_per_stack")
        if self.architecture == "hrm_text" and stack:  # src/models/hrm-text.cpp: blocks of a low and of a high stack
            passes = self.integer("hrm.l_cycles") + 1
            return tuple(il % stack + stack * (il // stack % passes == passes - 1) for il in self.layers)
        blocks = max(1, self.n_layer_all // self._loops)
        return tuple(il % blocks for il in self.layers)

    @cached_property
    def has_looped_layers(self) -> bool:
        """Whether several layers use the weights of one block."""
        return any(block != il for il, block in enumerate(self.block_of))

    @cached_property
    def n_layer(self) -> int:
        behind = 1 if self.has_router_layer else self.integer("nextn_predict_layers")
        return max(0, self.n_layer_all - behind)

    @cached_property
    def n_embd(self) -> int:
        return self.integer("embedding_length")

    @cached_property
    def n_vocab(self) -> int:
        return self.header.lengths.get("tokenizer.ggml.tokens", 0) or self.integer("vocab_size")

    @cached_property
    def n_head(self) -> tuple[int, ...]:
        return self.per_layer("attention.head_count")

    @cached_property
    def n_head_kv(self) -> tuple[int, ...]:
        key = "attention.head_count" if self.value("attention.head_count_kv") is None else "attention.head_count_kv"
        heads = self.per_layer(key)
        return (*heads[:-1], 1) if self.has_router_layer and heads else heads

    @cached_property
    def _default_head(self) -> int:
        first = next((heads for heads in self.n_head if heads), 0)
        return self.n_embd // first if first else 0

    def k_head(self, is_windowed: bool = False) -> int:
        """Values of one key."""
        full = self.integer("attention.key_length", self._default_head)
        return self.integer("attention.key_length_swa", full) if is_windowed else full

    def v_head(self, is_windowed: bool = False) -> int:
        """Values of one value vector."""
        full = self.integer("attention.value_length", self._default_head)
        return self.integer("attention.value_length_swa", full) if is_windowed else full

    @cached_property
    def is_mla(self) -> bool:
        """Multi-head latent attention: the cache keeps one latent vector as K and no V."""
        return bool(self.integer("attention.key_length_mla") and self.integer("attention.value_length_mla"))

    @cached_property
    def is_causal(self) -> bool:
        """Whether a token attends only to those before it."""
        return self.value("attention.causal") is not False and self.architecture not in arch.NOT_CAUSAL

    @cached_property
    def window_tokens(self) -> int:
        """Size of the sliding window in tokens; 0 if no layer has one."""
        rule = arch.WINDOWS.get(self.architecture)
        tokens = self.integer("attention.sliding_window")
        if rule is None:
            listed = self.architecture in arch.LISTED_WINDOWS | arch.ALL_WINDOWED
            return tokens if listed else 0
        if self.architecture == "exaone4" and self.n_layer != 64:
            return 0
        if self.architecture == "llama4":  # 0 disables the window, any other value means 8192
            return 0 if self.value("attention.sliding_window") == 0 else rule.fixed_tokens
        tokens = tokens or rule.default_tokens
        return rule.fixed_tokens or tokens if tokens else 0

    @cached_property
    def is_windowed(self) -> tuple[bool, ...]:
        """Which layers attend only to the window."""
        if not self.window_tokens:
            return (False,) * self.n_layer_all
        if self.architecture in arch.ALL_WINDOWED:
            return tuple(not state for state in self.has_state)
        pattern = self.value("attention.sliding_window_pattern")
        if isinstance(pattern, tuple):
            listed = [bool(each) for each in pattern[: self.n_layer_all]]
            return tuple(listed + [False] * (self.n_layer_all - len(listed)))
        rule = arch.WINDOWS.get(self.architecture, arch.SlidingWindow(0))
        return tuple(il < self.n_layer and _is_windowed(il, _integer(pattern, rule.period), rule) for il in self.layers)

    @property
    def layers(self) -> range:
        return range(self.n_layer_all)

    @cached_property
    def has_state(self) -> tuple[bool, ...]:
        """Which layers keep a recurrent state."""
        a = self.architecture
        if a in arch.RECURRENT or a in arch.STATE_AND_KV:
            return (True,) * self.n_layer_all
        if a in arch.STATE_BY_INTERVAL:
            return self._state_by_interval()
        if a not in arch.STATE_WITHOUT_KV_HEADS:
            return (False,) * self.n_layer_all
        without_kv = [heads == 0 for heads in self.n_head_kv]
        if a.startswith("nemotron_h"):  # layers with only a feed-forward network have no state
            without_kv = [no_kv and not ff for no_kv, ff in zip(without_kv, self.n_ff, strict=True)]
        return tuple(no_kv and il < self.n_layer for il, no_kv in enumerate(without_kv))

    def _state_by_interval(self) -> tuple[bool, ...]:
        listed = self.value("attention.recurrent_layers")
        if isinstance(listed, tuple) and len(listed) >= self.n_layer_all:
            return tuple(bool(each) for each in listed[: self.n_layer_all])
        usual = arch.STATE_BY_INTERVAL[self.architecture]
        interval = self.integer("full_attention_interval", usual) or usual
        return tuple(il < self.n_layer and (il + 1) % interval != 0 for il in self.layers)

    @cached_property
    def has_kv(self) -> tuple[bool, ...]:
        """Which layers own a KV cache, MTP blocks excluded."""
        a = self.architecture
        if a in arch.RECURRENT or a in arch.WITHOUT_CACHE:
            return (False,) * self.n_layer_all
        owners = self.n_layer_all if self.has_router_layer else self.n_layer
        if a == "gemma3n":
            owners = min(owners, arch.GEMMA3N_KV_LAYERS)
        elif a == "gemma4":
            owners -= self.integer("attention.shared_kv_layers")
        keeps_nothing = self.n_ff if a.startswith("nemotron_h") else (0,) * self.n_layer_all
        both = a in arch.STATE_AND_KV
        return tuple(il < owners and (both or not self.has_state[il]) and not keeps_nothing[il] for il in self.layers)

    @cached_property
    def n_ff(self) -> tuple[int, ...]:
        return self.per_layer("feed_forward_length")

    @cached_property
    def state_bytes(self) -> int:
        """Recurrent state of one layer and sequence in f32 (llama_hparams::n_embd_r and n_embd_s)."""
        return 4 * (self._conv_state + self.ssm_state)

    @property
    def _conv_state(self) -> int:
        if self.integer("wkv.head_size"):
            return self.integer("token_shift_count", arch.TOKEN_SHIFTS.get(self.architecture, 0)) * self.n_embd
        if self.integer("shortconv.l_cache"):
            return self.n_embd * (self.integer("shortconv.l_cache") - 1)
        kernel = self.integer("ssm.conv_kernel")
        if self.integer("kda.head_dim"):
            heads = max(self.n_head, default=0)
            return 3 * (kernel - 1 if kernel else 3) * heads * self.integer("kda.head_dim")
        width = self.integer("ssm.inner_size") + 2 * self.integer("ssm.group_count") * self.integer("ssm.state_size")
        return max(0, kernel - 1) * width

    @property
    def ssm_state(self) -> int:
        """Values of one layer's recurrent state without the convolution's (llama_hparams::n_embd_s)."""
        if head := self.integer("wkv.head_size"):
            return self.n_embd * head
        if self.integer("shortconv.l_cache"):
            return 0
        if head := self.integer("kda.head_dim"):
            return head * head * max(self.n_head, default=0)
        if self.architecture == "minimax-01":
            return self.k_head() ** 2 * max(self.n_head, default=0)
        return self.integer("ssm.state_size") * self.integer("ssm.inner_size")


def _is_windowed(il: int, period: int, rule: arch.SlidingWindow) -> bool:
    if period == 0:
        return True
    return il % period != 0 if rule.is_first_full else il % period < period - 1


def _integer(value: object, default: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return int(value) if 0 <= value < _HUGE else default
