"""Companion files (projector, draft model, LoRA adapters): their headers, read before a start."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator

from app.entities.gguf import GgufHeader
from app.entities.launch import LaunchSettings
from app.errors import InvalidModelFile
from app.use_cases.estimate.companions import Companion, Companions, group_companions, has_measured_head, read_companion
from app.use_cases.estimate.projector import Projector
from app.use_cases.launch.parsed_args import companion_paths
from app.use_cases.model_shape.draft_head import head_type
from app.use_cases.model_shape.shape import ModelShape
from app.use_cases.placement.request import DraftHead
from workers.catalog.model_headers import ModelHeaders

log = logging.getLogger(__name__)


class CompanionFiles:
    """Thread-safe. A file is read again after it has changed."""

    def __init__(self) -> None:
        self._headers = ModelHeaders[Companion](read_companion, problem_of=_nothing)

    def read(self, launch: LaunchSettings) -> Companions:
        """The companions of a model with these settings. Raises InvalidModelFile for its projector.

        Draft models and adapters come from `args`, which only the engine validates: one that cannot be read is left
        out here, and the launch fails with the engine's error message.
        """
        files = companion_paths(launch)
        projector = [self._projector(files.projector)] if files.projector else []
        return group_companions([*projector, *self._readable(filter(None, [files.draft, *files.adapters]))])

    def head(self, paths: Iterable[str], model: ModelShape, is_offered: Callable[[str], bool]) -> DraftHead | None:
        """The first of these draft heads that fits the model and that the engine can draft with."""
        for path in paths:
            shape = next(self._readable([path]), None)
            if isinstance(shape, ModelShape):
                head = DraftHead(path, head_type(shape.hparams.header), shape)
                if is_offered(head.speculation) and has_measured_head(shape, model):
                    return head
        return None

    def _projector(self, path: str) -> Projector:
        found = self._headers.get(path)
        if not isinstance(found, Projector):
            raise InvalidModelFile(path, f"{os.path.basename(path)} is configured as mmproj but is not a projector")
        return found

    def _readable(self, paths: Iterable[str]) -> Iterator[Companion]:
        for path in paths:
            try:
                yield self._headers.get(path)
            except InvalidModelFile as error:
                log.warning("not included in the estimate: %s", error.problem)


def _nothing(header: GgufHeader) -> str:
    return ""
