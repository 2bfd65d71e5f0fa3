"""docs/configuration.md, made from the settings: `python -m app.settings.page > docs/configuration.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app.settings.model import ModelDefaults, ModelSettings
from app.settings.schema import Settings
from app.settings.schema_keys import default_of, is_section, section_in
from app.settings.values import Section

_HEAD = """\
# Configuration

A value comes from, strongest first: the command line, `LLAMA_SMART_PROXY_*` in the environment (nesting by
`__`: `LLAMA_SMART_PROXY_SERVER__PORT=9000`), the YAML or JSON file named by `--config` or
`LLAMA_SMART_PROXY_CONFIG`, the default. Maps are merged key by key, lists are replaced. Every key has a default, so an
empty file is a valid one; an unknown key is an error that names the nearest known one. Lists and maps in the
environment are JSON: `LLAMA_SMART_PROXY_MODELS='{"qwen": {"ctx_size": 8192}}'`.

[config.example.yaml](../config.example.yaml) has every key with its default, explained line by line.
`llama-smart-proxy check-config` says what is wrong, or what differs from the defaults, without starting anything.

An address that other machines reach needs keys; without any the service refuses to start, unless `server.allow_open`
says that this is meant.

`args` and `env` may not set what is a key here, what decides where memory lies, or what would make a llama-server run
commands, reach files or answer strangers; the message says which key to use instead.

The original service's `config.json` is read as it is: each of its keys becomes a setting, or a warning when it starts.

What `scheduling`, `pin`, `priority`, `ttl_seconds`, `replicas` and `keep_kv_cache` do together:
[scheduling.md](scheduling.md).
"""


def configuration_page() -> str:
    """Every key with its default and meaning."""
    lines = [_HEAD]
    for name, field in Settings.model_fields.items():
        section = section_in(field)
        assert section is not None
        heading = {"keys": "keys[]", "models": "models.NAME"}.get(name, name)
        intro = section.__doc__ if is_section(field) else f"{field.description} Each entry has:"
        lines += [f"## {heading}", "", str(intro), "", "| key | default | meaning |", "|---|---|---|"]
        lines += [*_rows(section), ""]
    return "\n".join(lines)


def _rows(section: type[Section], below: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        inner = section_in(field)
        if inner is not None:
            yield from _rows(inner, f"{below}{key}.")
        else:
            meaning = str(field.description).replace("|", "\\|")  # else it would end the cell
            yield f"| `{below}{key}` | {_default(section, key, field)} | {meaning} |"


def _default(section: type[Section], key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if section is ModelSettings and key in ModelDefaults.model_fields:
        return "as in `defaults`"
    default = default_of(field)
    return f"`{default.human_readable() if isinstance(default, ByteSize) else json.dumps(default)}`"


if __name__ == "__main__":
    print(configuration_page(), end="")
