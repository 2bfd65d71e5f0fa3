"""References: how deep a schema is through its `$ref`s, and how many ways lead through them to one value.

The engine's recursion follows `$ref`s: a chain of 1,000 ends it. llama.cpp also follows all ways through `$ref`,
`anyOf`, `oneOf` and `allOf` to find a value's types (value_types_impl in common/json-schema.cpp, b11549), and a `$ref`
in `allOf` that leads to itself until its stack ends. A tree that refers to itself below `properties` or `items` is no
such way.
"""

from __future__ import annotations

_SAME_VALUE = ("anyOf", "oneOf", "allOf")
_OPEN = -1  # on the way now


class References:
    """The `$ref`s of one schema, each followed once."""

    def __init__(self, root: object, enough: int) -> None:
        """More ways than `enough` are not counted."""
        self._root = root
        self._enough = enough
        self._ways: dict[str, int] = {}
        self._depths: dict[str, int] = {}
        self._members: dict[int, dict[str, object]] = {}  # by the id of an object, which the root keeps alive

    def depth(self) -> int:
        """Levels of objects and arrays, what a `$ref` names counted below it. Raises RecursionError beyond some 900."""
        return self._depth_of(self._root)

    def ways(self) -> int:
        """The most ways from one `$ref`; more than `enough` if it leads to itself. Raises RecursionError."""
        most = 0
        waiting = [self._root]
        while waiting and most <= self._enough:
            value = waiting.pop()
            if isinstance(value, tuple):
                most = max(
                    [most, *(self._ways_from(ref) for key, ref in value if key == "$ref" and isinstance(ref, str))]
                )
                waiting += [member for _, member in value]
            elif isinstance(value, list):
                waiting += value
        return most

    def _depth_of(self, value: object) -> int:
        deepest = 0
        if isinstance(value, list):
            for item in value:
                if isinstance(item, tuple | list):
                    deepest = max(deepest, self._depth_of(item))
        for key, member in value if isinstance(value, tuple) else ():
            if isinstance(member, tuple | list):
                deepest = max(deepest, self._depth_of(member))
            elif key == "$ref" and isinstance(member, str):
                if member not in self._depths:
                    self._depths[member] = 0  # while it is followed
                    self._depths[member] = self._depth_of(self._target(member))
                deepest = max(deepest, self._depths[member])
        return deepest + 1

    def _ways_from(self, ref: str) -> int:
        if ref not in self._ways:
            self._ways[ref] = _OPEN
            self._ways[ref] = self._ways_through(self._target(ref))
        return self._enough + 1 if self._ways[ref] == _OPEN else self._ways[ref]

    def _ways_through(self, value: object) -> int:
        count = 1
        for key, member in value if isinstance(value, tuple) else ():
            if key == "$ref" and isinstance(member, str):
                count += self._ways_from(member)
            elif key in _SAME_VALUE and isinstance(member, list):
                count += sum(map(self._ways_through, member))
            if count > self._enough:
                return self._enough + 1
        return count

    def _target(self, ref: str) -> object:
        """What `#/a/b` names; None if there is nothing."""
        value = self._root
        for part in ref.split("/")[1:]:
            if isinstance(value, tuple):
                value = self._members_of(value).get(part)
            elif isinstance(value, list):
                value = value[int(part[:9])] if part.isdecimal() and int(part[:9]) < len(value) else None
            else:
                return None
        return value

    def _members_of(self, value: tuple[tuple[str, object], ...]) -> dict[str, object]:
        if id(value) not in self._members:
            self._members[id(value)] = dict(value)
        return self._members[id(value)]
