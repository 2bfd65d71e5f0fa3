"""A cache of model headers, which are read again only if their files change.

It keeps the problem and the facts of every model, and the value derived from the header for the most recently used
ones.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.entities.capabilities import HeaderFacts
from app.entities.gguf import GgufHeader
from app.entities.gguf_names import all_part_paths
from app.errors import InvalidModelFile
from app.use_cases.model_shape.header_facts import header_facts
from app.use_cases.model_shape.servable import why_not_servable
from workers.gguf.header import read_header

T = TypeVar("T")
Stamp = tuple[tuple[int, int], ...]  # size and mtime_ns of every part


@dataclass(frozen=True, slots=True)
class HeaderCheck:
    """What the header of a model said whose files had this stamp."""

    problem: str  # "" for none
    stamp: Stamp | None  # None: the files could not be read
    facts: HeaderFacts | None = None  # None if there is a problem


class ModelHeaders(Generic[T]):
    """Thread-safe. `derive` computes the cached value from a header and may raise InvalidModelFile.

    `problem_of` returns the problem of a header, "" for none.
    """

    def __init__(
        self,
        derive: Callable[[GgufHeader], T],
        capacity: int = 300,
        problem_of: Callable[[GgufHeader], str] = why_not_servable,
    ) -> None:
        self._derive = derive
        self._problem_of = problem_of
        self._capacity = capacity
        self._changed = threading.Condition()  # guards the three below; not held while files are read
        self._checks: dict[str, HeaderCheck] = {}  # by the path of the first part
        self._derived: OrderedDict[str, T] = OrderedDict()  # most recently used last
        self._being_read: set[str] = set()

    def get(self, path: str) -> T:
        """The value derived from the model's header, from its current files. Raises InvalidModelFile."""
        with self._exclusively(path):
            stamp = stamp_of(path)
            if (check := self._fresh(path, stamp)) and check.problem:
                raise InvalidModelFile(os.path.basename(path), check.problem)
            with self._changed:
                if check and path in self._derived:
                    self._derived.move_to_end(path)
                    return self._derived[path]
            return self._read(path, stamp)

    def problem(self, path: str) -> str:
        """The problem of the model's current files; "" for none."""
        with self._exclusively(path):
            stamp = stamp_of(path)
            if check := self._fresh(path, stamp):
                return check.problem
            try:
                self._read(path, stamp)
            except InvalidModelFile as error:
                return error.problem
            return ""

    def last_check(self, path: str) -> HeaderCheck | None:
        """The result of the last check; None if never checked. Reads no file."""
        return self._checks.get(path)

    def last_problem(self, path: str) -> str:
        """The problem found by the last check; "" for none, or if never checked. Reads no file."""
        check = self._checks.get(path)
        return check.problem if check else ""

    def is_known(self, path: str, stamp: Stamp) -> bool:
        """Whether the model was checked with this stamp. Reads no file."""
        check = self._checks.get(path)
        return check is not None and check.stamp == stamp

    def keep(self, stamps: Mapping[str, Stamp]) -> None:
        """Drop all models except those whose files still have these stamps."""
        with self._changed:
            for path in [path for path, check in self._checks.items() if stamps.get(path) != check.stamp]:
                del self._checks[path]
                self._derived.pop(path, None)

    @contextmanager
    def _exclusively(self, path: str) -> Iterator[None]:
        """One thread checks a model at a time; others wait for its result."""
        with self._changed:
            self._changed.wait_for(lambda: path not in self._being_read)
            self._being_read.add(path)
        try:
            yield
        finally:
            with self._changed:
                self._being_read.discard(path)
                self._changed.notify_all()

    def _fresh(self, path: str, stamp: Stamp | None) -> HeaderCheck | None:
        check = self._checks.get(path)
        return check if check and check.stamp == stamp is not None else None

    def _read(self, path: str, stamp: Stamp | None) -> T:
        """Read the header, and store its problem and the derived value. Raises InvalidModelFile."""
        try:
            header = self._header(path)
            derived, facts = self._derive(header), header_facts(header)
        except InvalidModelFile as error:
            # After a read error the file is checked again: new permissions do not change its mtime.
            self._remember(path, error.problem, None if isinstance(error.__cause__, OSError) else stamp)
            raise
        with self._changed:
            self._remember(path, "", stamp, facts)
            self._derived[path] = derived
            if len(self._derived) > self._capacity:
                self._derived.popitem(last=False)
        return derived

    def _header(self, path: str) -> GgufHeader:
        header, name = read_header(path), os.path.basename(path)
        if problem := self._problem_of(header):
            raise InvalidModelFile(name, f"{name} {problem}")
        return header

    def _remember(self, path: str, problem: str, stamp: Stamp | None, facts: HeaderFacts | None = None) -> None:
        """`stamp`: from before the read, so that a later change is noticed."""
        with self._changed:
            self._checks[path] = HeaderCheck(problem, stamp, facts)
            self._derived.pop(path, None)


def stamp_of(path: str) -> Stamp | None:
    """(size, mtime_ns) of every part of a model; None if one of them cannot be read."""
    try:
        stats = [os.stat(part) for part in all_part_paths(path)]
    except OSError:
        return None
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
