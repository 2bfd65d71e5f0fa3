"""Violation: where a body asks for something that the engine must not be asked for, and why not."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PARAM = 1000  # characters; keys may be as long as the body


@dataclass(frozen=True, slots=True)
class Violation:
    """`param`: the place in the body, such as `messages[0].content[1].image_url.url`."""

    message: str
    param: str = ""

    def below(self, place: str) -> Violation:
        """The same, seen from the object or array that has it at `place`: a key, or an index in brackets."""
        joint = "." if self.param and not self.param.startswith("[") else ""
        return Violation(self.message, f"{place}{joint}{self.param}"[:MAX_PARAM])


class BeyondBounds(Exception):
    """Raised where a bound is exceeded, and again on the way out, so that each level adds its place."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.message)
        self.violation = violation

    def below(self, place: str) -> BeyondBounds:
        return BeyondBounds(self.violation.below(place))


def exceed(message: str) -> BeyondBounds:
    return BeyondBounds(Violation(message))
