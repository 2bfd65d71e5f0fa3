"""Models: the folders, the files that cannot be served, and companions that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.entities.model import ModelSource, counted_by_source
from app.use_cases.diagnosis.finding import Finding, good, problem, warning


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A configured models_dir."""

    path: str
    problem: str = ""  # why it cannot be read


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model of the catalogue."""

    name: str
    size_bytes: int = 0
    problem: str = ""  # why it cannot be served
    is_locked: bool = False  # in RAM: --mlock
    source: ModelSource = ModelSource.FILE
    missing: Sequence[str] = ()  # companion files (draft model, adapter, projector) that cannot be read


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The catalogue as `serve` would have it. `configured`: the names in the configuration."""

    folders: Sequence[ModelFolder] = ()
    models: Sequence[CheckedModel] = ()
    configured: frozenset[str] = frozenset()
    notes: Sequence[str] = ()  # warnings of the scan that concern no single model
    is_configured: bool = True  # folders or models are; else the demo model is served, too


def model_findings(facts: ModelFacts) -> list[Finding]:
    return [
        *_folders(facts),
        _count(facts),
        *_broken(facts),
        *_companions(facts),
        *(warning("models", text, fix) for text, _, fix in (note.partition("; ") for note in facts.notes)),
    ]


def _folders(facts: ModelFacts) -> Iterator[Finding]:
    for folder in facts.folders:
        if folder.problem:
            fix = f"ls -ld {folder.path}; or correct catalog.models_dirs"
            yield problem("models", f"{folder.path}: {folder.problem}", fix)


def _count(facts: ModelFacts) -> Finding:
    broken = sum(bool(model.problem) for model in facts.models)
    counted = counted_by_source((model.source for model in facts.models), len(facts.folders))
    if len(facts.models) > broken:
        return good("models", f"{counted}, {broken} broken" if broken else counted)
    if not facts.is_configured and not broken:
        return good("models", "none configured: the demo model is served", "llama-smart-proxy serve --models-dir DIR")
    return problem("models", f"{counted}, none can be served", "put *.gguf files there, or correct the paths")


def _broken(facts: ModelFacts) -> Iterator[Finding]:
    """One that the configuration names is a problem: somebody relies on it."""
    for model in facts.models:
        if model.problem:
            kind = problem if model.name in facts.configured else warning
            yield kind(f"model {model.name}", model.problem, _fix(model.problem))


def _fix(words: str) -> str:
    """For the reason that the catalogue gives."""
    if "ermission denied" in words:
        return "chmod a+r the file, and a+x the folders above it"
    if words.startswith("no such file"):
        return "correct models.NAME.path, or download the file"
    return "download the file again, or delete it"


def _companions(facts: ModelFacts) -> Iterator[Finding]:
    for model in facts.models:
        for path in model.missing:
            text = f"{path}, which its settings name, does not exist or cannot be read"
            yield problem(f"model {model.name}", text, "correct the path (mmproj, args), or download the file")
