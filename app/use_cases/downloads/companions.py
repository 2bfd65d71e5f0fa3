"""Which companion files belong to which model of a repository or folder, by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from app.entities.gguf_names import DRAFT_HEADS, family, file_stem, quantization
from app.use_cases.downloads.model_names import model_stem

PROJECTOR_ORDER = ("F16", "BF16", "F32", "Q8_0")  # unquantized first, F16 above all: every backend computes in it


def matching_companions(
    models: Sequence[str], companions: Sequence[str], one_family: bool, family_of: Callable[[str], str] = family
) -> Callable[[str], list[str]]:
    """A function from a model's path to the projectors that match it, best first; all are paths. So it is with draft
    heads, whose names `family_of` shortens.

    First those in the model's folder, then those that match by name. A projector without a model name matches the
    models of its folder if all are of one family. A repository (`one_family`) counts as one folder; if it has one
    family, a projector matches whatever its name: google/gemma-3-4b-it-qat-q4_0-gguf contains gemma-3-4b-it-q4_0.gguf
    and mmproj-model-f16-4B.gguf.
    """
    group = (lambda path: "") if one_family else _folder
    families: dict[str, set[str]] = defaultdict(set)
    for model in models:
        families[group(model)].add(family(model_stem(model)))
    in_folder: dict[tuple[str, str], list[str]] = defaultdict(list)
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in sorted(companions, key=_projector_rank):
        name, names_in_folder = family_of(file_stem(path.rpartition("/")[2])), families[group(path)]
        if name:
            by_name[name].append(path)
        if len(names_in_folder) == 1 and (one_family or not name):
            name = next(iter(names_in_folder))
        if name in names_in_folder and (name or len(names_in_folder) == 1):
            in_folder[group(path), name].append(path)

    def matching(model: str) -> list[str]:
        name = family(model_stem(model))
        return [*in_folder.get((group(model), name), ()), *by_name.get(name, ())]

    return matching


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _projector_rank(path: str) -> tuple[int, str]:
    """Sort key: the best projector first."""
    name = path.rpartition("/")[2]
    kind = quantization(file_stem(name)).replace("FP", "F")
    order = PROJECTOR_ORDER
    return (order.index(kind) if kind in order else len(order), name)


def best_draft_heads(heads: Sequence[str]) -> Callable[[str], list[str]]:
    """A function from a model's path to the draft heads that are downloaded with it, one of each method: in the nearest
    folder above the model, then with the nearest number of bits, as llama-server's -hf (b11549, common/download.cpp,
    find_best_sibling). Its time does not grow with the number of heads: a server says how many there are."""
    by_bits: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)  # (method, folder) -> bits -> the first path
    for head in sorted(heads):
        by_bits[_method(head), _folder(head)].setdefault(_bits(head), head)
    methods = dict.fromkeys(map(_method, heads))

    def best(model: str) -> list[str]:
        bits, folders = _bits(model), _folders_above(model)
        nearest = (next((by_bits[m, f] for f in folders if (m, f) in by_bits), {}) for m in methods)
        return [min(found.items(), key=lambda each: (abs(each[0] - bits), each[1]))[1] for found in nearest if found]

    return best


def _folders_above(path: str) -> list[str]:
    """The nearest first; "" is the last."""
    found = [path]
    while found[-1]:
        found.append(_folder(found[-1]))
    return found[1:]


def _method(head: str) -> str:
    name = head.rpartition("/")[2].lower()
    return next((method for method in DRAFT_HEADS if name.startswith(method)), "")


def _bits(path: str) -> int:
    """Of the quantization: 4 for Q4_K_M, 0 if unknown."""
    number = re.search(r"\d+", quantization(model_stem(path)))
    return int(number[0]) if number else 0
