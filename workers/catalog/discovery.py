"""Discovery: the models in all folders, those of this service and of other programs."""

from __future__ import annotations

from itertools import chain

from app.entities.gguf import FileKind
from workers.catalog.file_summaries import FileSummaries
from workers.catalog.gguf_files import GgufFile, walk
from workers.catalog.hub_cache import discover_cached
from workers.catalog.lm_studio import discover_lm_studio
from workers.catalog.model_files import DiscoveredModel, discovered_in_folder, group_files
from workers.catalog.ollama_store import discover_ollama
from workers.catalog.sources import Sources


def discover(
    sources: Sources, summaries: FileSummaries, notes: list[str]
) -> tuple[list[DiscoveredModel], list[GgufFile]]:
    """The models, those of this service's own folders first; and the projectors in these folders."""
    visited: set[tuple[int, int]] = set()
    files = [file for folder in sources.folders for file in walk(folder, summaries, notes, visited)]
    cached = discover_cached(sources.cache, summaries, notes) if sources.cache is not None else []
    found = chain(
        map(discovered_in_folder, group_files(files, notes)),
        cached,
        *(discover_lm_studio(folder, summaries, notes) for folder in sources.lm_studio),
        *(discover_ollama(folder, summaries, notes) for folder in sources.ollama),
    )
    return list(found), [file for file in files if file.kind is FileKind.PROJECTOR]
