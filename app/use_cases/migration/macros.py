"""llama-swap's macros: `${name}` in any text, and `${env.NAME}` for a variable of the environment.

A macro may use those defined before it, as in llama-swap (internal/config/load.go). They are text: nothing
is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_MACROS = 500
MAX_EXPANDED = 4 * 1024**2  # characters that all macros of a file may insert: ten short lines could make gigabytes
_MACRO = re.compile(r"\$\{([a-zA-Z0-9_.-]+)\}")


class MacrosTooLarge(ValueError):
    """The macros expand beyond MAX_EXPANDED, or there are more than MAX_MACROS."""


class Budget:
    """The characters that may still be inserted; shared by all models of a file."""

    def __init__(self) -> None:
        self._left = MAX_EXPANDED

    def spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise MacrosTooLarge(f"the macros insert more than {MAX_EXPANDED // 1024**2} MiB of text")


class Macros:
    """The values of macros by name, with those that they use inserted."""

    def __init__(self, definitions: Mapping[str, object], environ: Mapping[str, str], budget: Budget) -> None:
        """`definitions` in their order. Raises MacrosTooLarge."""
        if len(definitions) > MAX_MACROS:
            raise MacrosTooLarge(f"more than {MAX_MACROS} macros")
        self._environ, self._budget = environ, budget
        self._values: dict[str, object] = {}
        for name, value in definitions.items():
            if isinstance(value, str | int | float):  # llama-swap also has maps, for values that we do not convert
                self._values[name] = self.expand(value)

    def expand(self, value: Any) -> Any:
        """The value with its macros inserted. A text that is one macro alone becomes the macro's value, such as 0.7.

        What is not defined stays: see `unknown_macros`. Raises MacrosTooLarge.
        """
        match value:
            case str():
                return self._expanded_text(value)
            case dict():
                return {str(self.expand(key)): self.expand(item) for key, item in value.items()}
            case list():
                return [self.expand(item) for item in value]
        return value

    def _expanded_text(self, text: str) -> object:
        if (alone := _MACRO.fullmatch(text)) and alone[1] in self._values:
            self._budget.spend(len(str(self._values[alone[1]])))
            return self._values[alone[1]]
        return _MACRO.sub(self._replacement, text)

    def _replacement(self, macro: re.Match[str]) -> str:
        name = macro[1]
        if name.startswith("env."):
            text = self._environ.get(name.removeprefix("env."), macro[0])
        else:
            text = _as_text(self._values[name]) if name in self._values else macro[0]
        self._budget.spend(len(text))
        return text


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def unknown_macros(value: object) -> list[str]:
    """The names of macros that are left in a value."""
    match value:
        case str():
            return _MACRO.findall(value)
        case dict():
            return [name for pair in value.items() for part in pair for name in unknown_macros(part)]
        case list():
            return [name for item in value for name in unknown_macros(item)]
    return []
