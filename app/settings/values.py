"""The types of settings, with their validation."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from app.settings.denied_options import why_argument_denied, why_variable_denied

PREFIX = "LLAMA_SMART_PROXY_"  # of environment variables
MAX_NAME_LENGTH = 512
MAX_INT = 2**31 - 1  # llama-server's integers have 32 bits

SECTION: ConfigDict = {"extra": "forbid", "frozen": True, "allow_inf_nan": False, "hide_input_in_errors": True}


@dataclass(frozen=True, slots=True)
class Reload:
    """Marks a key: whether a reload of the configuration applies a change of it, or only a restart does."""

    is_enough: bool


NEEDS_RESTART, APPLIES_AT_ONCE = Reload(False), Reload(True)


class Section(BaseModel):
    """A group of keys. An empty one has its defaults."""

    model_config = SECTION
    reload: ClassVar[Reload] = APPLIES_AT_ONCE  # of keys without a mark of their own

    @model_validator(mode="before")
    @classmethod
    def _null_means_defaults(cls, value: Any) -> Any:
        return {} if value is None else value


def _on_or_off(value: object) -> object:
    """Accepts true and false for on and off, as users write them in JSON."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _check_arguments(arguments: list[str]) -> list[str]:
    if any("\0" in argument for argument in arguments):
        raise ValueError("NUL characters are not allowed")
    if denials := [why for argument in arguments if (why := why_argument_denied(argument))]:
        raise ValueError("; ".join(denials))
    return arguments


def _check_variables(variables: dict[str, str]) -> dict[str, str]:
    if any(not name or "=" in name or "\0" in name + value for name, value in variables.items()):
        raise ValueError("a variable needs a name without `=`; NUL characters are not allowed")
    if denials := [why for name in variables if (why := why_variable_denied(name))]:
        raise ValueError("; ".join(denials))
    return variables


def _refuse_truth(value: object) -> object:
    """True would be one byte."""
    if isinstance(value, bool):
        raise ValueError("must be a size like 256MiB, not true or false")
    return value


def _require_unit(size: ByteSize) -> ByteSize:
    """Rejects 20 written for 20GiB: no model would fit in twenty bytes."""
    if 0 < size < 1024**2:
        raise ValueError(f"{size:d} bytes is too small; add a unit, such as 20GiB")
    return size


def size_text(size: ByteSize) -> str:
    """As a setting is written: 1GiB, or 1073741825 where no unit divides it."""
    units = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
    return next((f"{size // unit}{name}" for unit, name in units if size and size % unit == 0), str(int(size)))


def _check_name(name: str) -> str:
    if not 0 < len(name) <= MAX_NAME_LENGTH or name != name.strip() or not name.isprintable():
        raise ValueError(
            f"a name must have 1 to {MAX_NAME_LENGTH} printable characters, without leading or trailing spaces"
        )
    return name


def _check_model_name(name: str) -> str:
    if "," in name:  # llama-server splits --alias at commas
        raise ValueError("a model's name must not contain a comma")
    return _check_name(name)


def configured_file() -> Path | None:
    """The file named by LLAMA_SMART_PROXY_CONFIG."""
    name = os.environ.get(PREFIX + "CONFIG")
    return Path(name) if name else None


def start_folder() -> Path:
    """The folder that relative paths of the configuration refer to: the file's, else the current one."""
    file = configured_file()
    return file.absolute().parent if file else Path.cwd()


def absolute(folder: Path) -> Path:
    return start_folder() / os.path.expanduser(folder)


def _check_repository_glob(glob: str) -> str:
    if "/" not in glob and "*" not in glob:
        raise ValueError("must be a repository, or a glob over repositories: user/repo, ggml-org/*")
    return glob


def _check_auto_off_or_path(value: str) -> str:
    if value in ("", "on"):
        raise ValueError("must be auto, off or a path")
    return os.path.expanduser(value)


def _check_override(override: str) -> str:
    pattern, _, buffer = override.partition("=")  # as llama-server divides it
    if not (pattern and buffer) or "," in override or "=" in buffer:
        raise ValueError(
            f"write PATTERN=CPU, one for each item, with no comma or other =, such as ffn_.*_exps=CPU; not {override!r}"
        )
    if buffer != "CPU":
        raise ValueError(f"{buffer!r}: only CPU; on which GPU a tensor is, is the proxy's choice")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return override


CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
OnOff = Annotated[Literal["off", "on"], BeforeValidator(_on_or_off)]
OnOffAuto = Annotated[Literal["on", "off", "auto"], BeforeValidator(_on_or_off)]
OffOnOrCount = Annotated[
    Literal["off", "on"] | Annotated[int, Field(ge=1, le=MAX_INT)],
    BeforeValidator(_on_or_off),  # first of all: true is also an int
]
AutoOffOrPath = Annotated[str, BeforeValidator(_on_or_off), AfterValidator(_check_auto_off_or_path)]
OffAllowOn = Annotated[Literal["off", "allow", "on"], BeforeValidator(_on_or_off)]
Text = Annotated[str, Field(coerce_numbers_to_str=True)]
Name = Annotated[Text, AfterValidator(_check_name)]
RepositoryGlob = Annotated[Name, AfterValidator(_check_repository_glob)]
Memory = Annotated[ByteSize, BeforeValidator(_refuse_truth), AfterValidator(_require_unit)]
GpuNames = list[Name]  # UUIDs, NVML indices or names
# One size, or one for each of some GPUs. Told apart beforehand, so that an error is about the form that was meant.
MemoryByGpu = Annotated[
    Annotated[Memory, Tag("size")] | Annotated[dict[Name, Memory], Tag("map")],
    Discriminator(lambda value: "map" if isinstance(value, dict) else "size"),
]
ModelName = Annotated[Text, AfterValidator(_check_model_name)]
TensorOverride = Annotated[Text, AfterValidator(_check_override)]
Folder = Annotated[Path, AfterValidator(absolute)]
File = Folder  # of the settings, another name for the same
Arguments = Annotated[list[Text], AfterValidator(_check_arguments)]
Variables = Annotated[dict[str, Text], AfterValidator(_check_variables)]


def url_origin(url: str) -> str:
    """The origin of an http(s) URL, as browsers send it: without a path, and without the scheme's usual port."""
    parts = urlsplit(url)
    scheme, name = parts.scheme.lower(), (parts.hostname or "").lower()
    name = f"[{name}]" if ":" in name else name
    has_usual_port = parts.port in (None, {"http": 80, "https": 443}.get(scheme))
    return f"{scheme}://{name}" if has_usual_port else f"{scheme}://{name}:{parts.port}"
