"""Constraints: bounds on what a body asks the engine's sampler to keep to, before the engine allocates for it.

Most of it is checked by the names at the top of the body; the engine reads them there on every route that generates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.use_cases.body_checks.expansion import expand_grammar
from app.use_cases.body_checks.schemas import SchemaBounds
from app.use_cases.body_checks.violation import BeyondBounds, Violation, exceed

MAX_GRAMMAR = 65_536  # characters
MAX_GRAMMAR_DEPTH = 200  # of parentheses: at 100,000 the engine dies
MAX_GRAMMAR_ELEMENTS = 100_000  # 4 million take 1.5 s and 270 MiB
MAX_OPTIONAL = 500  # of these in a row, 300 take 1.2 s for two tokens, and 2,000 more than 25 s

# The engine allocates as many numbers, or keeps 1 KiB for each of as many tokens, with every token that it generates.
MAX_NUMBERS: Mapping[str, int] = {
    **dict.fromkeys(("repeat_last_n", "dry_penalty_last_n"), 1_000_000),  # 100,000,000: 760 MiB
    **dict.fromkeys(("n_probs", "logprobs", "top_logprobs"), 100),  # 1,000 for 300 tokens: 5 s, 104 MiB
}
MAX_LENGTHS: Mapping[str, int] = {
    "dry_sequence_breakers": 100,  # 10,000: 2.3 s
    "reasoning_budget_end_tags": 100,  # 100,000: 31 s
    "chat_template_kwargs": 100,  # 10,000: 7.6 s
    "samplers": 100,
    "stop": 1000,
    "lora": 1000,
    "grammar_triggers": 100,
    **dict.fromkeys(("logit_bias", "preserved_tokens", "response_fields"), 100_000),  # half a second, 15 MiB
}
MAX_SCALE = 10.0  # of an adapter: with 1e38 the KV cache has NaN, which garbles later answers to others, too
SCHEMAS = frozenset(["json_schema", "response_format", "text", "output_config", "output_format"])
TOOLS = frozenset(["tools", "functions"])
_WORD_TRIGGERS = (0.0, 1.0)  # TOKEN and WORD in common_grammar_trigger_type; the others are regular expressions


def excessive_constraint(body: object) -> Violation | None:
    """The first member of a parsed body that is beyond its bounds."""
    if not isinstance(body, tuple):
        return None
    schemas = SchemaBounds()
    for key, value in body:
        try:
            if key in SCHEMAS:
                schemas.check(value)
            elif key in TOOLS:
                schemas.check(value, is_tools=True)
            elif check := _CHECKS.get(key):
                check(key, value)
        except BeyondBounds as beyond:
            return beyond.below(key).violation
    return None


_SHORTEN = "repetitions like {0,n} written out; shorten it, or lower n"


def _check_grammar(_: str, grammar: object) -> None:
    if not isinstance(grammar, str):
        return
    if len(grammar) > MAX_GRAMMAR:
        raise exceed(f"the grammar is longer than {MAX_GRAMMAR:,} characters")
    if grammar.startswith("%llguidance") and "%json" in grammar:
        raise exceed("a schema inside a grammar is not allowed; send it as json_schema")
    expanded = expand_grammar(grammar)
    if expanded.depth > MAX_GRAMMAR_DEPTH:
        raise exceed(f"the grammar has more than {MAX_GRAMMAR_DEPTH} levels of parentheses")
    if expanded.elements > MAX_GRAMMAR_ELEMENTS:
        raise exceed(f"the grammar has more than {MAX_GRAMMAR_ELEMENTS:,} elements, {_SHORTEN}")
    if expanded.optional > MAX_OPTIONAL:
        raise exceed(f"the grammar has more than {MAX_OPTIONAL} optional elements, {_SHORTEN}")


def _check_number(key: str, number: object) -> None:
    if isinstance(number, float) and number > MAX_NUMBERS[key]:
        raise exceed(f"must be at most {MAX_NUMBERS[key]:,}")


def _check_length(key: str, values: object) -> None:
    if isinstance(values, list | tuple) and len(values) > MAX_LENGTHS[key]:
        raise exceed(f"has more than {MAX_LENGTHS[key]:,} members")


def _check_triggers(key: str, triggers: object) -> None:
    """A regular expression here is matched against all generated text by backtracking, and `((((...` ends the engine.
    Clients have no use for it: the engine itself makes the triggers of tools."""
    _check_length(key, triggers)
    for index, trigger in enumerate(triggers if isinstance(triggers, list) else ()):
        types = [value for name, value in trigger if name == "type"] if isinstance(trigger, tuple) else []
        if any(kind not in _WORD_TRIGGERS for kind in types):
            raise exceed("must be 0 (a token) or 1 (a word)").below("type").below(f"[{index}]")


def _check_adapters(key: str, adapters: object) -> None:
    _check_length(key, adapters)
    for index, adapter in enumerate(adapters if isinstance(adapters, list) else ()):
        scales = [value for name, value in adapter if name == "scale"] if isinstance(adapter, tuple) else []
        if any(isinstance(scale, float) and abs(scale) > MAX_SCALE for scale in scales):
            raise exceed(f"must be between -{MAX_SCALE:g} and {MAX_SCALE:g}").below("scale").below(f"[{index}]")


_CHECKS: Mapping[str, Callable[[str, object], None]] = {
    **dict.fromkeys(MAX_NUMBERS, _check_number),
    **dict.fromkeys(MAX_LENGTHS, _check_length),
    "lora": _check_adapters,
    "grammar": _check_grammar,
    "grammar_triggers": _check_triggers,
}
