"""Schemas: bounds on the JSON schemas in a body, each of which the engine turns into a grammar.

Measured with the embedded engine 11549 under a memory limit, on one core. The bounds keep a request's schemas below
four seconds and 60 MiB, mostly far below. Without them:

- `maxItems` 100,000: 8 s, 160 MiB; 1,000,000,000: the engine dies. 20 arrays of at most 1,000 items: 1.6 s
- `"type": ["object", "object"]` at each of 16 levels: the converter builds both, 12 s and 450 MiB
- 800 optional properties in one object: 4.6 s (cubic). 10,000 values of one `enum`: 11 s (quadratic)
- a `pattern` of 40,000 characters: 1.2 s (quadratic); a property's name of 40,000 bytes, or an `allOf` whose `$ref`
  leads to itself, or a chain of 1,000 `$ref`s: the engine dies. `$ref`s to pairs of `$ref`s, 22 levels: 2.9 s
"""

from __future__ import annotations

from app.use_cases.body_checks.expansion import expand_pattern
from app.use_cases.body_checks.references import References
from app.use_cases.body_checks.violation import BeyondBounds, exceed

MAX_DEPTH = 100  # of objects and arrays
MAX_OBJECTS = 10_000  # of all schemas of a request, counted once for each type in a list of types
MAX_KEYS = 200  # of one object
MAX_KEY = 1000  # characters
MAX_ENUM_VALUES = 2000
MAX_STRING = 2000  # characters of a value of `enum` or `const`
MAX_ITEMS = 10_000  # the sum of all minItems and maxItems
MAX_LENGTHS = 200_000  # the sum of all minLength and maxLength
MAX_PATTERN = 2000  # characters
MAX_PATTERN_ELEMENTS = 100_000  # of all patterns
MAX_WAYS = 10_000  # through $refs to one value
MAX_REF_DEPTH = 400  # levels, what a $ref names counted below it
UNBOUNDED = 2000  # llama.cpp takes a larger upper bound for none (MAX_REPETITION_THRESHOLD in src/llama-grammar.cpp)
_ROOTS = ("parameters", "input_schema", "schema", "json_schema")  # a `$ref` begins at one of these
_MANY_KEYS = ("$defs", "definitions", "schemas")
_KEYWORDS = frozenset(["minItems", "maxItems", "minLength", "maxLength", "pattern", "$ref", "const"])
Pairs = tuple[tuple[str, object], ...]


class SchemaBounds:
    """The sums over all schemas of one request."""

    def __init__(self) -> None:
        self._objects = 0
        self._enum_values = 0
        self._items = 0
        self._lengths = 0
        self._pattern_elements = 0
        self._has_refs = False
        self._roots: list[object] = []

    def check(self, value: object, is_tools: bool = False) -> None:
        """Raises BeyondBounds. `value`: a schema, or whatever has schemas in it. `is_tools`: tools' schemas become
        GBNF, in which a large `maxItems` costs nothing; the embedded engine compiles others with llguidance."""
        self._has_refs, self._roots = False, [value]
        self._walk(value, 1, 1, is_tools)
        if self._has_refs:
            for root in self._roots:
                _check_references(References(root, MAX_WAYS))

    def _walk(self, value: object, times: int, depth: int, is_tools: bool) -> None:
        if depth > MAX_DEPTH:
            raise exceed(f"the schema is more than {MAX_DEPTH} levels deep")
        if type(value) is list:
            for index, item in enumerate(value):
                if type(item) is tuple or type(item) is list:
                    try:
                        self._walk(item, times, depth + 1, is_tools)
                    except BeyondBounds as beyond:
                        raise beyond.below(f"[{index}]") from None
        elif type(value) is tuple:
            self._objects += times
            if self._objects > MAX_OBJECTS:
                raise exceed(f"the request's schemas have more than {MAX_OBJECTS:,} objects")
            self._walk_object(value, times * _alternatives(value), depth, is_tools)

    def _walk_object(self, pairs: Pairs, times: int, depth: int, is_tools: bool) -> None:
        for key, value in pairs:
            kind = type(value)
            if kind is not tuple and kind is not list and key not in _KEYWORDS and len(key) <= MAX_KEY:
                continue
            try:
                if kind is float:
                    self._check_count(key, value, times, is_tools)  # type: ignore[arg-type]
                elif isinstance(value, str):
                    self._check_text(key, value)
                elif isinstance(value, tuple | list):
                    self._check_members(key, value)
                    self._walk(value, times, depth + 1, is_tools)
                if len(key) > MAX_KEY:
                    raise exceed(f"a name of more than {MAX_KEY} characters")
            except BeyondBounds as beyond:
                raise beyond.below(key[:MAX_KEY]) from None

    def _check_members(self, key: str, value: list[object] | Pairs) -> None:
        if key == "enum":
            self._check_enum(value)
        elif key == "patternProperties" and isinstance(value, tuple):
            for pattern, _ in value:
                self._check_pattern(pattern)
        elif key in _ROOTS:
            self._roots.append(value)
        elif isinstance(value, tuple) and len(value) > MAX_KEYS and key not in _MANY_KEYS:
            raise exceed(f"more than {MAX_KEYS} properties in one object")

    def _check_count(self, key: str, value: float, times: int, is_tools: bool) -> None:
        if key in ("minItems", "maxItems"):
            if not (is_tools and key == "maxItems" and value > UNBOUNDED):
                self._items += int(min(value, MAX_ITEMS + 1)) * times
            if self._items > MAX_ITEMS:
                raise exceed(
                    f"minItems and maxItems of the request's schemas add up to more than {MAX_ITEMS:,}; lower them"
                )
        elif key in ("minLength", "maxLength"):
            if key == "minLength" or value <= UNBOUNDED:
                self._lengths += int(min(value, MAX_LENGTHS + 1)) * times
            if self._lengths > MAX_LENGTHS:
                raise exceed(
                    f"minLength and maxLength of the request's schemas add up to more than {MAX_LENGTHS:,}; lower them"
                )

    def _check_text(self, key: str, text: str) -> None:
        if key == "pattern":
            self._check_pattern(text)
        elif key == "$ref":
            self._has_refs = True
        elif key == "const" and len(text) > MAX_STRING:
            raise exceed(f"a value of more than {MAX_STRING} characters")

    def _check_pattern(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise exceed(f"a pattern of more than {MAX_PATTERN} characters")
        expanded = expand_pattern(pattern)
        if expanded.depth > MAX_DEPTH:
            raise exceed(f"a pattern with more than {MAX_DEPTH} levels of parentheses")
        self._pattern_elements += expanded.elements
        if self._pattern_elements > MAX_PATTERN_ELEMENTS:
            raise exceed(
                f"the request's patterns have more than {MAX_PATTERN_ELEMENTS:,} elements, "
                "repetitions like {n} written out; shorten them"
            )

    def _check_enum(self, values: list[object] | Pairs) -> None:
        self._enum_values += len(values)
        if self._enum_values > MAX_ENUM_VALUES:
            raise exceed(f"the request's schemas have more than {MAX_ENUM_VALUES:,} values of enum")
        if any(type(value) is str and len(value) > MAX_STRING for value in values):
            raise exceed(f"a value of more than {MAX_STRING} characters")


def _check_references(references: References) -> None:
    try:
        depth, ways = references.depth(), references.ways()
    except RecursionError:
        depth, ways = MAX_REF_DEPTH + 1, 0
    if depth > MAX_REF_DEPTH:
        raise exceed(f"through its $refs the schema is more than {MAX_REF_DEPTH} levels deep")
    if ways > MAX_WAYS:
        raise exceed("a $ref leads to itself, or to too many others, without a property or items between")


def _alternatives(pairs: Pairs) -> int:
    """How often the converter builds what is in this schema: once for each type."""
    for key, value in pairs:
        if key == "type" and isinstance(value, list):
            return max(1, len(value))
    return 1
