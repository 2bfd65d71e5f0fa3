"""Reads the configuration file: a mapping, or a one-line error with its position.

YAML 1.2: `on`, `off`, `yes` and `no` are strings, not booleans as in PyYAML (YAML 1.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MAX_FILE_BYTES = 4 * 1024**2
MAX_VALUE_SIZE = 4 * MAX_FILE_BYTES  # characters and values, each alias counted: ten short lines can mean gigabytes


class InvalidSettingsFile(Exception):
    """The file is not a YAML or JSON mapping. The message has the error's position, but no content of the file."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 booleans and without dates; keys must be unique strings."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Rejects duplicate keys before `<<` merges keys that the mapping may override."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise InvalidSettingsFile(f"line {line}: a key is not a string; put it in quotes")
            if key.value in lines:
                raise InvalidSettingsFile(f"line {line}: duplicate key {key.value!r}, first in line {lines[key.value]}")
            lines[key.value] = line
        return node


def _is_resolved(tag: str, first: str) -> bool:
    if tag == "tag:yaml.org,2002:bool":
        return first in "tTfF"
    return tag != "tag:yaml.org,2002:timestamp"


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if _is_resolved(tag, first)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_file(file: Path) -> dict[str, Any]:
    """The file's mapping; {} for an empty file. Raises InvalidSettingsFile."""
    text = _text(file)
    if not text.strip():
        return {}
    value = parse_json(text) if _is_json(file, text) else _parse_yaml(text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidSettingsFile("must be a mapping of keys to values")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises InvalidSettingsFile."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise InvalidSettingsFile(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except _DuplicateKey as error:
        raise InvalidSettingsFile(_duplicate_position(text) or f"duplicate key {error.args[0]!r}") from None
    except RecursionError:
        raise InvalidSettingsFile("too deeply nested") from None


def _text(file: Path) -> str:
    try:
        if file.is_dir():
            raise InvalidSettingsFile("is a folder")
        if file.exists() and not file.is_file():
            raise InvalidSettingsFile("must be a regular file: it is read more than once")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InvalidSettingsFile(f"larger than {MAX_FILE_BYTES // 1024**2} MiB")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidSettingsFile(
            "no such file" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidSettingsFile(f"not UTF-8 text (byte {error.start})") from None


def _is_json(file: Path, text: str) -> bool:
    """Decided by suffix, else by content: YAML may also begin with a brace."""
    if file.suffix.lower() == ".json":
        return True
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_yaml(text: str) -> Any:
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
        if _size(value, {}) > MAX_VALUE_SIZE:
            raise InvalidSettingsFile("its aliases (*name) repeat more than 16 MiB of values")
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context or ""
        raise InvalidSettingsFile(
            place + ("a tab character; indent with spaces" if "'\\t'" in problem else problem)
        ) from None
    except yaml.reader.ReaderError as error:
        raise InvalidSettingsFile(f"character {error.position} is not allowed in YAML") from None
    except RecursionError:
        raise InvalidSettingsFile("too deeply nested") from None
    except (yaml.YAMLError, ValueError):
        raise InvalidSettingsFile("not YAML") from None


_BEING_COUNTED = 0


def _size(value: Any, known: dict[int, int]) -> int:
    """Characters and values, without visiting what an alias repeats. Raises InvalidSettingsFile for a value that
    contains itself."""
    if isinstance(value, str):
        return 1 + len(value)
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _BEING_COUNTED
        known[id(value)] = 1 + sum(_size(item, known) for item in _parts(value))
    if known[id(value)] == _BEING_COUNTED:
        raise InvalidSettingsFile("an alias (*name) stands inside of what it repeats")
    return known[id(value)]


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value


class _DuplicateKey(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise _DuplicateKey(key)
        value[key] = item
    return value


def _duplicate_position(text: str) -> str:
    """The YAML error with a duplicate key's position, which json does not report; "" if YAML finds no duplicate."""
    try:
        yaml.load(text.replace("\t", " "), _Loader)
    except InvalidSettingsFile as error:
        return str(error)
    except (yaml.YAMLError, ValueError, RecursionError):
        pass
    return ""
