"""llama-server options that a configuration must not set, and what to do instead.

One table serves `args` and `env`, because llama-server also reads its options from LLAMA_ARG_*. Names are those of its
--help (b10488) and older spellings that builds still accept.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

_UNSAFE = "it could run commands, access files or bypass the proxy's access control"
_OURS = "the proxy sets it"
_MEMORY = "the proxy decides where a model's memory is allocated, and how much"
_GPUS = "the proxy chooses the GPUs; restrict the choice with models.NAME.gpus, exclude, min_gpus and max_gpus"
_DRAFT = "use models.NAME.speculative"
_LOG = "the proxy reads the log to explain a failed load"
_EXIT = "llama-server would exit after printing it"

# Option names without dashes (`*` matches anything) -> why they are denied.
_RULES = (
    ("tools tools-* mcp* agent ag cors-* media-path api-prefix rpc", _UNSAFE),
    ("ui ui-* webui webui-*", "the proxy has its own status page"),
    ("path models-* slot-save-path log-prompts-dir control-vector control-vector-*", _UNSAFE),
    ("host port reuse-port alias a api-key api-key-* ssl-* slots metrics props", _OURS),
    ("model m", "use models.NAME.path"),
    ("model-url mu hf hf-* hfr hff hft hfd hfrd hfv hfrv hffv docker-repo dr", "use models.NAME.repo"),
    ("model-vocoder mv tts-* *-default fim-*", "it would load another model"),
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
    ("lora lora-scaled", "use models.NAME.lora"),
    ("lora-*", _UNSAFE),
    ("mmproj-offload", "use mmproj_offload"),
    ("mmproj mmproj-* mm mmu", "use models.NAME.mmproj"),
    ("batch-size b", "use batch_size"),
    ("fit fit-* fitt fitc", _MEMORY),
    ("cache-ram cram", "use prompt_cache, with a unit: prompt_cache: 8192MiB"),
    ("gpu-layers n-gpu-layers ngl", "use n_gpu_layers"),
    ("cpu-moe cmoe n-cpu-moe ncmoe", "use cpu_moe"),
    ("split-mode sm", "use split_mode"),
    ("device dev tensor-split ts main-gpu mg", _GPUS),
    ("override-tensor ot", "use tensor_overrides"),
    ("kv-offload kvo nkvo", "use no_kv_offload"),
    ("*-draft draft draft-* spec-* md td tbd cd ctkd ctvd devd ngld otd cmoed ncmoed", _DRAFT),
    ("Cd Crd Cbd Crbd lookup-cache-* lcs lcd", _DRAFT),
)
_WHY = tuple((pattern, why) for patterns, why in _RULES for pattern in patterns.split())

# Variables whose name differs from their option's.
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
    """Why this command-line argument must not be set; None if it is allowed, or is a value.

    The reason names the option but never its value: `--api-key=...` holds a secret.
    """
    if not argument.startswith("-"):
        return None
    option = argument.split("=", 1)[0]
    if re.search(r"\s", option):
        return f"{option.split()[0]}: write an option and its value as two entries"
    if why := _why(_plain(option)):
        return f"{option} must not be set: {why}"
    return None


def why_variable_denied(name: str) -> str | None:
    """Why this environment variable must not be set for llama-server; None if it is allowed."""
    if _OUR_VARIABLES.fullmatch(name.upper()):
        return f"{name} must not be set: {_OURS}"
    plain = name.upper().removeprefix("LLAMA_ARG_").lower().replace("_", "-")
    if name.upper().startswith("LLAMA_ARG_") and (why := _why(_OPTION_OF.get(plain, plain))):
        return f"{name} must not be set: {why}"
    return None


def _plain(option: str) -> str:
    """The option as in the table: llama-server accepts --ctx_size for --ctx-size; short options are case-sensitive."""
    name = option.lstrip("-")
    return name.replace("_", "-").lower() if option.startswith("--") else name


def _why(name: str) -> str | None:
    if name == "no-host":  # host memory, not an address
        return None
    positive = name.removeprefix("no-")  # disabling such an option is denied too
    return next((why for pattern, why in _WHY if fnmatchcase(positive, pattern)), None)
