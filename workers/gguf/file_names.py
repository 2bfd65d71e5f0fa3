"""What the name of a GGUF file says: a part of a split model, a projector, a quantization, a family."""

from __future__ import annotations

import re

# As llama-gguf-split names parts; llama.cpp finds the others by the name of the first.
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE | re.DOTALL)

_QUANTIZATION = re.compile(
    r"""(?<![^\W_])  # a word of its own: not after a letter or digit
    (?:UD[-_])?  # Unsloth's dynamic ones
    (?: Q[1-8]_K(?:_(?:XXS|XS|S|M|L|XL|XXL))?
      | Q[1-8]_[0-9](?:_[0-9])*
      | IQ[1-8]_[A-Z]{1,3}(?:_XL|_[0-9]_[0-9])?
      | TQ[12]_0
      | MXFP4(?:_MOE)? | NVFP4
      | B?F16 | F32 | FP16 | FP32
    )
    (?![^\W_])""",
    re.IGNORECASE | re.VERBOSE,
)
_SEPARATORS = re.compile(r"[\W_]+")


def stem_of(name: str) -> str:
    """A file's name without ".gguf", in whatever case."""
    return name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def part_of(path: str) -> tuple[str, int, int] | None:
    """(what stands before the numbers, number of this part, number of parts), or None for a file that is whole."""
    match = _PART.fullmatch(path)
    if match is None:
        return None
    part, parts = int(match[2]), int(match[3])
    return (match[1], part, parts) if 1 <= part <= parts else None


def part_path(path: str, number: int) -> str:
    """The path of another part of the same model."""
    return f"{path[: -len('00001-of-00001.gguf')]}{number:05}{path[-len('-of-00001.gguf') :]}"


def all_parts(path: str) -> list[str]:
    """The paths of all parts of the model that the file of this path is of, there or not."""
    part = part_of(path)
    return [part_path(path, number) for number in range(1, part[2] + 1)] if part else [path]


def is_projector(name: str) -> bool:
    return "mmproj" in name.lower()


def quantization(stem: str) -> str:
    """The last one the name tells, in upper case ("UD-Q4_K_XL"); empty for none."""
    found = _QUANTIZATION.findall(stem)
    return str(found[-1]).upper() if found else ""


def family(stem: str) -> str:
    """What is left of a name when all is taken off that differs between a model's quantizations and projectors."""
    rest = _QUANTIZATION.sub(" ", stem).lower().replace("mmproj", " ")
    return "".join(word for word in _SEPARATORS.split(rest) if word != "model")


def endings(stem: str) -> list[str]:
    """Every end of the name that begins after a separator, the longest first."""
    return [stem[match.end() :] for match in _SEPARATORS.finditer(stem) if match.end() < len(stem)]
