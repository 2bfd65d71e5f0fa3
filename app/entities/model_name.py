"""Model names: when two of them are the same, and globs among the aliases."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

WILDCARDS = "*?"
SIMILARITY_CUTOFF = 0.65  # of difflib's ratio: tolerates an extra letter or a missing quantization
MAX_COMPARED = 100  # characters of a mistyped name
MAX_CANDIDATES = 200
COMMON_PREFIX = 2  # characters


def folded(name: str) -> str:
    """The name regardless of case and of Unicode normal form: canonical caseless matching (Unicode 3.13, D145).

    macOS stores names of files decomposed: what looks the same differs in its code points.
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def is_glob(name: str) -> bool:
    """Whether an alias stands for many names. Brackets are ordinary characters: names of files have them."""
    return any(wildcard in name for wildcard in WILDCARDS)


def glob_pattern(glob: str) -> re.Pattern[str]:
    """What folded names have to match as a whole.

    Each part between two `*` matches where it comes first, and nowhere else: to try the others takes a time that grows
    with a power of the name's length, and holds Python's lock.
    """
    first, *rest = (_literal(part) for part in folded(glob).split("*"))
    if not rest:
        return re.compile(first)
    middle = "".join(f"(?>(?s:.*?){part})" for part in rest[:-1])
    return re.compile(f"{first}{middle}(?s:.*){rest[-1]}")


def _literal(text: str) -> str:
    return "(?s:.)".join(map(re.escape, text.split("?")))


def literal_length(glob: str) -> int:
    """The number of its characters that are no wildcards: a longer glob is more specific."""
    return len(glob) - sum(map(glob.count, WILDCARDS))


def covers(key_glob: str, alias: str) -> bool:
    """Whether a key's glob matches every name that an alias stands for.

    "claude-*" covers the alias "claude-*", "claude-opus-*" does not: who may use a few names of a model may not use it
    by all of them.
    """
    if not is_glob(alias):
        return fnmatchcase(alias, key_glob)
    samples = (alias.replace("?", "\uffff").replace("*", text) for text in ("", "\uffff\uffff"))
    return all(fnmatchcase(sample, key_glob) for sample in samples)


def similar_names(name: str, names: Sequence[str]) -> list[str]:
    """Up to two names that the mistyped one may stand for, the most similar first.

    To compare it with thousands takes long, and anybody may ask: of so many, only those that begin alike count.
    """
    by_folded = {folded(known): known for known in names}
    wanted, candidates = folded(name[:MAX_COMPARED]), list(by_folded)
    if len(candidates) > MAX_CANDIDATES:
        candidates = [known for known in candidates if known.startswith(wanted[:COMMON_PREFIX])][:MAX_CANDIDATES]
    return [by_folded[near] for near in get_close_matches(wanted, candidates, n=2, cutoff=SIMILARITY_CUTOFF)]
