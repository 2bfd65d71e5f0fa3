"""How much memory a llama-server will need, computed from the model's header before it is loaded.

Weights and context are arithmetic; the compute buffer follows rules fitted to llama.cpp's own accounting
(bench/estimate.py compares). An unknown model never raises: its estimate has low confidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from app.entities.launch import DRAFTS_ITSELF, ModelOptions, Task
from app.entities.memory import Confidence, DeviceMemory, Estimate, MeasuredError
from app.use_cases.estimate import families
from app.use_cases.estimate.companions import (
    NO_COMPANIONS,
    Companions,
    DeviceNeeds,
    adapter_memory,
    add_needs,
    draft_options,
    drafting_memory,
    projector_needs,
)
from app.use_cases.estimate.compute import compute_bytes, host_compute_bytes, uncertain_bytes
from app.use_cases.estimate.draft_head import HEAD_TYPES, head_needs
from app.use_cases.estimate.kv_cache import cache_cells, context_bytes, host_context_bytes, tokens_at_once
from app.use_cases.estimate.load_staging import with_load_staging
from app.use_cases.estimate.projector import MEASURED as MEASURED_PROJECTORS
from app.use_cases.estimate.shared_tensors import divided_estimate, is_shared, on_one_gpu
from app.use_cases.estimate.tensor_split import device_layers, used_gpus
from app.use_cases.estimate.weights import weights
from app.use_cases.model_shape.hparams import MAX_LAYERS
from app.use_cases.model_shape.shape import ModelShape

FITTED_BUILD = "11549"  # of llama.cpp: the one that `engine install` builds unless told otherwise

# Per process: CUDA's context and libraries, until measured. 264 to 753 MiB have been seen, depending on the GPU model.
GPU_OVERHEAD_BYTES = 500 * 1024**2
MEASURED_SPECULATION = frozenset({"none", DRAFTS_ITSELF, "draft-simple", "ngram-simple", "ngram-mod"})

VULKAN_SHARE, VULKAN_MARGIN_BYTES = 0.1, 256 * 1024**2


def for_vulkan(estimate: Estimate) -> Estimate:
    """The estimate for an engine that uses the GPUs through Vulkan: the rules for its buffers are CUDA's."""
    devices = tuple(
        replace(each, margin_bytes=each.margin_bytes + round(VULKAN_SHARE * each.total_bytes) + VULKAN_MARGIN_BYTES)
        for each in estimate.devices
    )
    if not devices:
        return estimate
    notes = (*estimate.notes, "the engine uses Vulkan, whose buffers have not been measured")
    return replace(estimate, devices=devices, confidence=Confidence.LOW, notes=notes)


def for_version(estimate: Estimate, version: str) -> Estimate:
    """The estimate for an engine that calls itself this: "11549 (1a2b3c4)", "xllamacpp 2026.10.11549".

    What was exact for the build that was measured follows, for another or an unknown one, a rule."""
    if estimate.confidence is not Confidence.EXACT or FITTED_BUILD in re.findall(r"\d+", version):
        return estimate
    return replace(estimate, confidence=Confidence.MODELLED)


def estimate_memory(
    shape: ModelShape,
    options: ModelOptions,
    gpu_overhead_bytes: int = GPU_OVERHEAD_BYTES,
    companions: Companions = NO_COMPANIONS,
) -> Estimate:
    """What a llama-server for this model needs with these options, in bytes per device and in RAM. Never raises."""
    if is_shared(options):
        whole = estimate_memory(shape, on_one_gpu(options), gpu_overhead_bytes, companions)
        return divided_estimate(whole, options, shape.output_bytes if shape.has_tied_output else 0)
    ranges = device_layers(shape.hparams, options)
    needs = [_model_needs(shape, options, ranges)]
    if options.speculation == DRAFTS_ITSELF and not companions.draft:
        needs.append(drafting_memory(shape, options, ranges))
    needs += [adapter_memory(each, shape.hparams.n_layer_all, ranges) for each in companions.adapters]
    if companions.projector:
        needs.append(projector_needs(companions.projector, options, len(ranges)))
    if companions.draft:
        context = cache_cells(shape, options).ctx
        needs.append(_draft_model_needs(companions.draft, shape, replace(options, ctx_size=context)))
    devices, host = add_needs(needs) if len(needs) > 1 else needs[0]
    estimate = _assembled(shape, options, companions, gpu_overhead_bytes, devices, host)
    uncertain = uncertain_bytes(shape, options, ranges)
    estimate = _with_more_margin(estimate, uncertain) if uncertain else estimate
    return with_load_staging(estimate, shape, options)


def _with_more_margin(estimate: Estimate, size: int) -> Estimate:
    """On the first device."""
    first = estimate.devices[0]
    return replace(estimate, devices=(replace(first, margin_bytes=first.margin_bytes + size), *estimate.devices[1:]))


def _model_needs(shape: ModelShape, options: ModelOptions, ranges: list[range]) -> DeviceNeeds:
    on_devices, on_host = weights(shape, options, ranges)
    compute = compute_bytes(shape, options, ranges)
    context = context_bytes(shape, options, ranges)
    host = DeviceMemory(
        weights_bytes=on_host,
        context_bytes=host_context_bytes(shape, options, ranges),
        compute_bytes=host_compute_bytes(shape, options) if options.devices else compute[0],
    )
    if not options.devices:
        return [], host
    devices = [
        DeviceMemory(w, c if options.kv_offload else 0, g) for w, c, g in zip(on_devices, context, compute, strict=True)
    ]
    return devices, host


def _draft_model_needs(draft: ModelShape, model: ModelShape, options: ModelOptions) -> DeviceNeeds:
    """A draft model is a second model in the same process, with a context of the same size."""
    own = draft_options(options)
    if options.speculation in HEAD_TYPES:
        devices, host = head_needs(draft, model, own, options)
    else:
        devices, host = _model_needs(draft, own, device_layers(draft.hparams, own))
    gpus = used_gpus(options)
    if not devices or len(devices) == len(gpus):
        return devices, host
    gpu = min(options.draft_device or 0, options.devices - 1)
    return [devices[0] if each == gpu else DeviceMemory() for each in gpus], host


def _assembled(
    shape: ModelShape,
    options: ModelOptions,
    companions: Companions,
    overhead_bytes: int,
    devices: list[DeviceMemory],
    host: DeviceMemory,
) -> Estimate:
    """The estimate with its margin, confidence and notes."""
    has_companions = companions != NO_COMPANIONS or options.speculation != "none"
    total_share, compute_share = families.margin_shares(
        shape.hparams.architecture, _kinds(shape, options), has_companions
    )
    unmeasured = tuple(_unmeasured(shape, options, companions))
    if unmeasured:
        total_share = max(total_share, families.UNKNOWN_MARGIN)
    notes = (*unmeasured, *_file_problems(shape))
    return Estimate(
        tuple(_booked(each, overhead_bytes, total_share, compute_share) for each in devices),
        _booked(host, 0, total_share, compute_share) if not devices else host,
        Confidence.LOW if notes else Confidence.EXACT if _is_exact(shape, options, companions) else Confidence.MODELLED,
        notes,
        _measured_error(shape, options, has_companions),
    )


def _measured_error(shape: ModelShape, options: ModelOptions, has_companions: bool) -> MeasuredError | None:
    found = families.agreement(shape.hparams.architecture, _kinds(shape, options), has_companions)
    return MeasuredError(found.rows, found.error) if found else None


def _file_problems(shape: ModelShape) -> Iterator[str]:
    """What is wrong or missing in the file."""
    if shape.empty_layers:
        yield f"{shape.empty_layers} of the {shape.hparams.n_layer_all} layers have no tensors"
    for key in ("embedding_length", "context_length"):
        if not shape.hparams.integer(key):
            yield f"the file has no {key}"
    if shape.hparams.integer("block_count") > MAX_LAYERS:
        yield f"llama.cpp supports at most {MAX_LAYERS} layers"


def _unmeasured(shape: ModelShape, options: ModelOptions, companions: Companions) -> Iterator[str]:
    """Parts that have not been compared with llama.cpp's own figures."""
    for each in (shape, companions.draft):
        if each and not families.is_known(each.hparams.architecture):
            yield f"architecture {each.hparams.architecture!r} has not been measured"
    family = shape.hparams.architecture
    if families.is_known(family):
        for kind in families.unmeasured(family, _kinds(shape, options)):
            yield f"architecture {family!r} has not been measured {families.NAMES[kind]}"
    if companions != NO_COMPANIONS or options.speculation != "none":
        for kind in families.unmeasured(families.WITH_COMPANIONS, _kinds(shape, options)):
            yield f"companion files and drafting have not been measured {families.NAMES[kind]}"
    if companions.projector and companions.projector.kind not in MEASURED_PROJECTORS:
        yield f"projectors of type {companions.projector.kind!r} have not been measured"
    if (options.cache_type_k, options.cache_type_v) not in families.MEASURED_CACHES:
        # CUDA's flash attention has no kernel for some of them; the attention scores are then materialized.
        yield f"a KV cache of types {options.cache_type_k} and {options.cache_type_v} has not been measured"
    for option in options.unmeasured:
        yield f"the effect of {option} on memory has not been measured"
    if options.speculation not in MEASURED_SPECULATION:
        yield f"speculative decoding of type {options.speculation!r} has not been measured"


def _is_exact(shape: ModelShape, options: ModelOptions, companions: Companions) -> bool:
    """Whether every item is arithmetic that matched all measurements."""
    settings = tokens_at_once(shape, options), options.parallel
    if not families.is_exact(shape.hparams.architecture, _kinds(shape, options), *settings):
        return False
    plain = (Task.COMPLETION, "none", (), 0, True, NO_COMPANIONS)
    actual = (options.task, options.speculation, options.overrides, options.n_cpu_moe, options.kv_offload, companions)
    return actual == plain and options.flash_attn != "off" and options.ubatch_tokens <= options.batch_tokens


def _kinds(shape: ModelShape, options: ModelOptions) -> tuple[families.StartKind, ...]:
    return families.kinds(options, shape.hparams.n_layer_all)


def _booked(memory: DeviceMemory, overhead_bytes: int, total_share: float, compute_share: float) -> DeviceMemory:
    weights_bytes, context_bytes, compute_bytes_ = memory.weights_bytes, memory.context_bytes, memory.compute_bytes
    total = weights_bytes + context_bytes + compute_bytes_
    margin_bytes = round(total_share * total + compute_share * compute_bytes_)
    return DeviceMemory(weights_bytes, context_bytes, compute_bytes_, overhead_bytes, margin_bytes)
