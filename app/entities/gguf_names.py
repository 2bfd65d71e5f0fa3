"""Parses names of GGUF files: part of a split model, quantization, family, kind."""

from __future__ import annotations

import re

from app.entities.gguf import FileKind

# The naming scheme of llama-gguf-split; llama.cpp derives the other names from that of the first part.
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE | re.DOTALL)

_QUANTIZATION = re.compile(
    r"""(?<![^\W_])  # a whole word: not after a letter or digit
    (?:UD[-_])?  # Unsloth's dynamic quantizations
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
# Words that say how a file was made, not from which model: quantized with an importance matrix, or with MTP layers.
_VARIANTS = frozenset({"model", "i1", "imat", "mtp"})
_HEAD_WORDS = re.compile(
    r"(?<![^\W_])(?:eagle3?|dflash|dspark|assistant|draft|head|speculator)(?![^\W_])", re.IGNORECASE
)
DRAFT_HEADS = ("mtp-", "eagle3-", "dflash-", "dspark-")


def file_stem(name: str) -> str:
    """The file name without ".gguf", which may be in any case."""
    return name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def parse_part_name(path: str) -> tuple[str, int, int] | None:
    """(name before the numbers, part number, part count), or None if the model is not split."""
    match = _PART.fullmatch(path)
    if match is None:
        return None
    part, parts = int(match[2]), int(match[3])
    return (match[1], part, parts) if 1 <= part <= parts else None


def part_path(path: str, number: int) -> str:
    """The path of another part of the same model."""
    return f"{path[: -len('00001-of-00001.gguf')]}{number:05}{path[-len('-of-00001.gguf') :]}"


def all_part_paths(path: str) -> list[str]:
    """The paths of all parts of the model to which this file belongs, whether they exist or not."""
    part = parse_part_name(path)
    return [part_path(path, number) for number in range(1, part[2] + 1)] if part else [path]


def kind_by_name(path: str) -> FileKind:
    """What a file is for if its header cannot be read: by the names that converters and llama.cpp give.

    As gguf_filename_is_model (llama.cpp b11434, common/download.cpp).
    """
    name = path.rpartition("/")[2].lower()
    if "mmproj" in name:
        return FileKind.PROJECTOR
    if "imatrix" in name:
        return FileKind.IMPORTANCE_MATRIX
    return FileKind.DRAFT_HEAD if name.startswith(DRAFT_HEADS) else FileKind.MODEL


def quantization(stem: str) -> str:
    """The last quantization in the name, in upper case ("UD-Q4_K_XL"); empty for none."""
    matches = _QUANTIZATION.findall(stem)
    return str(matches[-1]).upper() if matches else ""


def family(stem: str) -> str:
    """The name without what differs between a model's quantizations and projectors."""
    rest = _QUANTIZATION.sub(" ", stem).lower().replace("mmproj", " ")
    return "".join(word for word in _SEPARATORS.split(rest) if word not in _VARIANTS)


def family_of_head(stem: str) -> str:
    """As `family`, of a draft head's name: without what says that it is one."""
    return family(_HEAD_WORDS.sub(" ", stem))


def name_suffixes(stem: str) -> list[str]:
    """All suffixes of the name that begin after a separator, longest first."""
    return [stem[match.end() :] for match in _SEPARATORS.finditer(stem) if match.end() < len(stem)]
