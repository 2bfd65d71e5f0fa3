"""Parameters and system prompts of Ollama's models, as defaults for the requests of a model.

Both come with a model, from whoever has made it: of the parameters only those of the sampler are used, within the
bounds that requests have.
"""

from __future__ import annotations

import json
from typing import Any

from app.entities.request_rules import SYSTEM_PROMPT, RequestRules
from app.use_cases.body_checks.constraints import excessive_constraint
from app.use_cases.ollama.options import SAMPLING, sampling_fields

MAX_PARAMETERS_BYTES = 1 << 16
MAX_PROMPT_BYTES = 1 << 18


def parameter_rules(parameters: bytes, system_prompt: bytes) -> RequestRules:
    """The contents of the layers `params` and `system`; b"" for none. Raises ValueError with what is wrong, a
    predicate.

    `num_ctx` and what else decides about a load is the service's: a model is not reloaded for it.
    """
    fields: dict[str, Any] = sampling_fields(_parameters(parameters)) if parameters else {}
    if found := excessive_constraint(json.loads(json.dumps(fields), object_pairs_hook=tuple, parse_int=float)):
        raise ValueError(f"has parameters that no request may have: {found.param}")
    if system_prompt:
        fields[SYSTEM_PROMPT] = _text(system_prompt)
    return RequestRules(default=fields)


def _parameters(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data, parse_constant=_reject)
    except (ValueError, RecursionError) as error:
        raise ValueError("has parameters that are not JSON") from error
    if not isinstance(found, dict):
        raise ValueError("has parameters that are not a JSON object")
    return {name: value for name, value in found.items() if name in SAMPLING and _is_usable(name, value)}


def _reject(constant: str) -> None:
    raise ValueError(constant)


def _is_usable(name: str, value: object) -> bool:
    if name == "stop":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError("has a system prompt that is not UTF-8") from error
