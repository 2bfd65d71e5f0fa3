"""Generates docs/configuration.md from the settings: `python -m app.settings.page > docs/configuration.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app.settings.schema import Settings
from app.settings.schema_keys import default_of, is_section, needs_restart, section_in
from app.settings.sections.model import ModelSettings
from app.settings.sections.model_defaults import ModelDefaults
from app.settings.values import Section, size_text

_HEAD = """\
# Configuration

No configuration is required: every key has a default. To change some, write a YAML file:

```yaml
server: {host: 0.0.0.0}
keys: [{name: alice, sha256: bb0fe21873777df61705144dc7a7427b7beb2d7e5fea7ae29bd4697556d608da}]
catalog: {models_dirs: [~/models]}
models:
  qwen3-8b: {ctx_size: 32768, aliases: [gpt-4o-mini]}
```

```sh
llama-smart-proxy check-config --config config.yaml
```

reports errors, or the differences from the defaults, and starts nothing. `serve --config config.yaml` uses the file.
[config.example.yaml](../config.example.yaml) has every key with its default, explained line by line.

## Sources and precedence

From highest to lowest precedence:

1. the command line;
2. `LLAMA_SMART_PROXY_*` environment variables, with `__` between levels: `LLAMA_SMART_PROXY_SERVER__PORT=9000`. Lists
   and maps are JSON: `LLAMA_SMART_PROXY_MODELS='{"qwen": {"ctx_size": 8192}}'`;
3. the YAML or JSON file named by `--config` or `LLAMA_SMART_PROXY_CONFIG`;
4. the default.

Maps are merged key by key, lists are replaced. An unknown key is an error that names the nearest known one. A retired
key is ignored with a warning for a year ([upgrading.md](upgrading.md)). The original service's `config.json` is read
unchanged: each of its keys becomes a setting, or a warning at start.

## Changes while the service runs

A [reload](reload.md) applies changes without a restart, except those of the keys marked *Restart*.

## Access from other machines

An address that other machines can reach requires keys. Without keys the service refuses to start there, unless
`server.allow_open` is set.

## Arguments and variables that are rejected

`args` and `env` must not set what has a key here, what decides where a model's memory is allocated, or what would let
llama-server run commands, access files or accept requests from others. The error names the key to use instead.

How `scheduling`, `pin`, `priority`, `ttl_seconds`, `replicas` and `keep_kv_cache` work together:
[scheduling.md](scheduling.md).
"""


def configuration_page() -> str:
    """The page: every key with its default and description."""
    lines = [_HEAD]
    for name, field in Settings.model_fields.items():
        if (section := section_in(field)) is None:
            default = json.dumps(default_of(field))
            lines += [f"## {name}", "", str(field.description), "", f"Default: `{default}`.", ""]
            continue
        heading = {"keys": "keys[]", "models": "models.NAME", "peers": "peers.NAME"}.get(name, name)
        intro = section.__doc__ if is_section(field) else f"{field.description} Each entry has:"
        lines += [f"## {heading}", "", str(intro), "", "| key | default | meaning |", "|---|---|---|"]
        lines += [*_rows(section), ""]
    return "\n".join(lines)


def _rows(section: type[Section], below: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        inner = section_in(field)
        if inner is None or not is_section(field):
            meaning = str(field.description).replace("|", "\\|")  # a plain | would end the cell
            meaning += " *Restart.*" if needs_restart(section, field) else ""
            yield f"| `{below}{key}` | {_default(section, key, field)} | {meaning} |"
        if inner is not None:
            yield from _rows(inner, f"{below}{key}." if is_section(field) else f"{below}{key}.NAME.")


def _default(section: type[Section], key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if section is ModelSettings and key in ModelDefaults.model_fields:
        return "as in `defaults`"
    default = default_of(field)
    return f"`{size_text(default) if isinstance(default, ByteSize) else json.dumps(default)}`"


if __name__ == "__main__":
    print(configuration_page(), end="")
