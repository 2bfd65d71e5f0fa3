"""Options of llama-server that a configuration may not hand on, and what to do instead.

One table serves `args` and `env`: llama-server takes its options from LLAMA_ARG_* as well. Names per its --help
(b10488) and the older spellings that builds still take.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

_UNSAFE = "it would run commands, reach files or open what the proxy keeps shut"
_OURS = "the proxy sets it itself"
_MEMORY = "the proxy decides where a model's memory lies, and how much it is"
_GPUS = "the proxy chooses the GPUs; use models.NAME.gpus, exclude, min_gpus and max_gpus to say among which"
_DRAFT = "draft models cannot be configured yet"
_LOG = "the proxy reads the log to explain a failed load"
_EXIT = "it prints something and ends"

# What an option is called without its dashes -> why it is refused. A `*` stands for anything.
_RULES = (
    ("tools tools-* mcp* agent ag cors-* media-path api-prefix rpc", _UNSAFE),
    ("ui ui-* webui webui-*", "the proxy has a page of its own"),
    ("path models-* slot-save-path log-prompts-dir lora lora-* control-vector control-vector-*", _UNSAFE),
    ("host port reuse-port alias a api-key api-key-* ssl-* slots metrics props", _OURS),
    ("model m", "use models.NAME.path"),
    ("model-url mu hf hf-* hfr hff hft hfd hfrd hfv hfrv hffv docker-repo dr", "use models.NAME.repo"),
    ("model-vocoder mv tts-* *-default fim-*", "it would load a model of its own"),
    ("log-file log-disable", _LOG),
    ("help h usage version license cache-list cl completion-bash list-devices", _EXIT),
    ("sleep-idle-seconds", "use ttl_seconds"),
    ("ctx-size c", "use ctx_size"),
    ("parallel np", "use parallel"),
    ("kv-unified kvu", "use kv_unified"),
    ("ubatch-size ub", "use ubatch_size"),
    ("cache-type-k ctk", "use cache_type_k"),
    ("cache-type-v ctv", "use cache_type_v"),
    ("flash-attn fa", "use flash_attn"),
    ("mmproj mmproj-* mm mmu", "use models.NAME.mmproj"),
    ("batch-size b cache-ram cram fit fit-* fitt fitc", _MEMORY),
    ("gpu-layers n-gpu-layers ngl", "use n_gpu_layers"),
    ("cpu-moe cmoe n-cpu-moe ncmoe", "use cpu_moe"),
    ("device dev tensor-split ts split-mode sm main-gpu mg", _GPUS),
    ("override-tensor ot kv-offload kvo nkvo", _MEMORY),
    ("*-draft draft draft-* spec-* md td tbd cd ctkd ctvd devd ngld otd cmoed ncmoed", _DRAFT),
    ("Cd Crd Cbd Crbd lookup-cache-* lcs lcd", _DRAFT),
)
_WHY = tuple((pattern, why) for patterns, why in _RULES for pattern in patterns.split())

# Variables that are not called like their option.
_OPTION_OF = {
    "static-path": "path",
    "batch": "batch-size",
    "ubatch": "ubatch-size",
    "n-parallel": "parallel",
    "endpoint-slots": "slots",
    "endpoint-metrics": "metrics",
    "endpoint-props": "props",
    "hfd-repo": "hf-repo-draft",
    "hfv-repo": "hf-repo-v",
    "hfv-file": "hf-file-v",
}
_OUR_VARIABLES = re.compile(r"LLAMA_(API_KEY|SERVER_\w+|LOG_FILE)|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER)")


def why_argument_denied(argument: str) -> str | None:
    """Why this word of a command line may not be handed on; None for one that may, and for a value.

    The answer names the option but never its value: `--api-key=...` holds a secret.
    """
    if not argument.startswith("-"):
        return None
    option = argument.split("=", 1)[0]
    if re.search(r"\s", option):
        return f"{option.split()[0]}: write an option and its value as two entries"
    if why := _why(_plain(option)):
        return f"{option} may not be set: {why}"
    return None


def why_variable_denied(name: str) -> str | None:
    """Why llama-server may not get this environment variable; None when it may."""
    if _OUR_VARIABLES.fullmatch(name.upper()):
        return f"{name} may not be set: {_OURS}"
    plain = name.upper().removeprefix("LLAMA_ARG_").lower().replace("_", "-")
    if name.upper().startswith("LLAMA_ARG_") and (why := _why(_OPTION_OF.get(plain, plain))):
        return f"{name} may not be set: {why}"
    return None


def _plain(option: str) -> str:
    """llama-server reads --ctx_size as --ctx-size; short options keep their case, -C is not -c."""
    name = option.lstrip("-")
    return name.replace("_", "-").lower() if option.startswith("--") else name


def _why(name: str) -> str | None:
    if name == "no-host":  # about host memory, not about an address
        return None
    positive = name.removeprefix("no-")  # to turn off what is ours is ours too
    return next((why for pattern, why in _WHY if fnmatchcase(positive, pattern)), None)
