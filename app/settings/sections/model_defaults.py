"""Settings of how models are started, unless a model has its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from app.entities.launch import ALL_LAYERS, AUTO_CTX_TOKENS, AUTO_PROMPT_CACHE, AUTO_UBATCH, LoadMode, ModelOptions
from app.settings.sections.speculative import Speculative, SpeculativeSettings
from app.settings.values import MAX_INT, CacheType, Memory, OffOnOrCount, OnOff, OnOffAuto, Section, TensorOverride
from app.use_cases.launch.known_options import unmeasured_options
from app.use_cases.launch.parsed_args import option_pairs, parse_model_options

MAX_SLOTS = 256  # LLAMA_MAX_SEQ
MAX_THREADS = 512  # GGML_MAX_N_THREADS

# Keys whose options `args` may have as well, because they had no key at first.
_ALSO_IN_ARGS = {
    "threads": {"-t", "--threads"},
    "load_mode": {
        *("--load-mode", "-lm", "--mmap", "--no-mmap", "--mlock"),
        *("--direct-io", "-dio", "--no-direct-io", "-ndio"),
    },
}


class ModelDefaults(Section):
    """How models are started, unless a model overrides it."""

    ctx_size: Literal["auto"] | Annotated[int, Field(gt=0, le=MAX_INT)] = Field(
        "auto",
        description=(
            "Context in tokens, shared by all slots. auto: the largest of 32768, 16384, 8192 and 4096 that "
            "fits an empty GPU, or the fewest that hold the model; 65536 or 131072 if the model then takes half "
            "of it at most; never above the model's own. On the CPU: if it takes half of the RAM at most. "
            "What is loaded makes no difference (docs/estimates.md)."
        ),
    )
    parallel: int = Field(
        4, ge=1, le=MAX_SLOTS, description="Number of slots: requests that a model processes at the same time."
    )
    kv_unified: bool = Field(
        True, description="Share one KV cache among the slots, so that each can use the whole context."
    )
    ubatch_size: Literal["auto"] | Annotated[int, Field(gt=0, le=MAX_INT)] = Field(
        "auto",
        description=(
            "Physical batch size in tokens. The compute buffer grows with it. auto: 512; of a model that embeds or "
            "reranks, the context of a slot, because an input must fit into one batch."
        ),
    )
    batch_size: Literal["auto"] | Annotated[int, Field(gt=0, le=MAX_INT)] = Field(
        "auto",
        description=(
            "Logical batch size in tokens: how much of a prompt is computed before other slots have their turn. auto: "
            "2048, or `ubatch_size` if that is larger; a smaller one reduces `ubatch_size`."
        ),
    )
    cache_type_k: CacheType = Field("f16", description="Data type of the K cache.")
    cache_type_v: CacheType = Field("f16", description="Data type of the V cache.")
    flash_attn: OnOffAuto = Field("auto", description="Flash attention.")
    n_gpu_layers: Literal["all"] | Annotated[int, Field(ge=0, le=MAX_INT)] = Field(
        "all", description="Number of layers on GPUs. 0: run the model on the CPU."
    )
    cpu_moe: OffOnOrCount = Field(
        "off",
        description=(
            "Keep mixture-of-experts weights in RAM. on: those of all layers, if no GPU has enough memory "
            "for the whole model; a number: those of the first N layers, always."
        ),
    )
    partial_offload: OnOff = Field(
        "off", description="Allow layers in RAM if no GPU has enough memory for all of them."
    )
    speculative: Speculative = Field(
        "auto",
        description=(
            "Speculative decoding. auto: by the model's own layers for it, or a draft head beside it, where that "
            "costs nothing else; off; or what drafts tokens: `{draft: FILE_OR_NAME}`, `{type: draft-mtp}` (the "
            "model's own layers for it), `{type: ngram-mod}` (the text so far), each with `max_tokens` at a time: "
            "docs/speculative.md."
        ),
    )
    split_mode: Literal["layer", "tensor", "row"] = Field(
        "layer",
        description=(
            "How a model is split that is on several GPUs. layer: each has some of the layers; tensor: a part of every "
            "tensor, so that all compute at the same time; row: the same in an older way."
        ),
    )
    tensor_overrides: list[TensorOverride] = Field(
        [],
        description=(
            "Tensors that stay in RAM while their layers are on GPUs: `PATTERN=CPU`, where the pattern is a regular "
            "expression for names of tensors. Of several patterns the first that matches counts."
        ),
    )
    no_kv_offload: bool = Field(
        False, description="Keep the KV cache in RAM while the layers are on GPUs: slower, and longer contexts fit."
    )
    mmproj_offload: bool = Field(True, description="Put the projector on the model's first GPU. false: in RAM.")
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = Field(
        None, description="CPU threads of the llama-server. null: as many as llama-server chooses."
    )
    load_mode: LoadMode = Field(
        LoadMode.AUTO,
        description=(
            "How the model's file is read. mmap: mapped into memory; read: into buffers; direct: into buffers, past "
            "the page cache. auto: read for weights that all go to GPUs, direct where GPUs use RAM as their memory, "
            "else as the engine itself does: docs/loading.md."
        ),
    )

    prompt_cache: Literal["auto"] | Memory = Field(
        "auto",
        description=(
            "RAM for conversations that have no slot at the moment, so that their prompts are not computed again. "
            "auto: a share of what is free when the model is loaded, 8 GiB at most, and never what another model "
            "needs; 0: none. docs/prompt-cache.md."
        ),
    )

    def over_arguments(self, args: Sequence[str]) -> ModelOptions:
        """The options of a llama-server launched with `args` and these keys, which override `args`.

        A key sets the option with its name; words for numbers are translated here.
        """
        keys: dict[str, Any] = {
            option.name: getattr(self, option.name)
            for option in fields(ModelOptions)
            if option.name in type(self).model_fields
        }
        keys["ubatch_size"] = AUTO_UBATCH if self.ubatch_size == "auto" else self.ubatch_size
        if self.batch_size == "auto":  # llama-server reduces the larger one
            keys["batch_size"] = max(ModelOptions().batch_size, keys["ubatch_size"])
        keys["kv_offload"] = not self.no_kv_offload
        if isinstance(self.speculative, SpeculativeSettings):
            keys["speculation"] = self.speculative.speculation
            keys["draft_max"] = self.speculative.max_tokens or ModelOptions().draft_max
        if self.ctx_size == "auto":
            keys["ctx_size"] = AUTO_CTX_TOKENS
        if self.n_gpu_layers == "all":
            keys["n_gpu_layers"] = ALL_LAYERS
        keys["prompt_cache"] = AUTO_PROMPT_CACHE if self.prompt_cache == "auto" else int(self.prompt_cache)
        if isinstance(self.cpu_moe, int):
            keys["n_cpu_moe"] = self.cpu_moe
        found = parse_model_options(args)
        if self.load_mode is LoadMode.AUTO:
            keys["load_mode"] = found.load_mode
        return replace(found, **keys, overrides=found.overrides + self._overrides, unmeasured=unmeasured_options(args))

    @property
    def _overrides(self) -> tuple[tuple[str, str], ...]:
        pairs = (override.partition("=") for override in self.tensor_overrides)
        return tuple((pattern, buffer) for pattern, _, buffer in pairs)

    def over_args(self, args: Sequence[str]) -> tuple[str, ...]:
        """The arguments of its llama-server, after `args`, that are no ModelOptions."""
        return (*args, *(() if self.threads is None else ("--threads", str(self.threads))))


def keys_in(args: Sequence[str]) -> set[str]:
    """The keys that these arguments stand for."""
    options = {option for option, _ in option_pairs(args)}
    return {key for key, names in _ALSO_IN_ARGS.items() if names & options}


def flash_attention_need(options: ModelOptions) -> str:
    """Which of these options cannot be had without flash attention, which is off; "" for none."""
    if options.flash_attn != "off":
        return ""
    if options.cache_type_v not in ("f32", "f16", "bf16"):
        return f"cache_type_v {options.cache_type_v}"
    return "split_mode tensor" if options.split_mode == "tensor" else ""
