"""Reads the headers of a model in a repository, and checks by them whether it fits: before a download."""

from __future__ import annotations

from app.errors import InvalidModelFile, error_for
from app.use_cases.estimate.companions import group_companions, read_companion
from app.use_cases.model_shape.header_facts import header_facts
from app.use_cases.model_shape.servable import why_not_servable
from app.use_cases.model_shape.shape import model_shape
from workers.downloads.found_model import FoundModel
from workers.downloads.hub import Hub
from workers.downloads.remote_header import read_remote_header
from workers.downloads.remote_model import Machine, RemoteModel


def read_remote_model(hub: Hub, found: FoundModel) -> RemoteModel:
    """Raises InvalidModelFile for what cannot be served, and what `Hub` raises."""
    model, repository = found.model, found.repository
    header = read_remote_header(hub, repository, model.parts)
    if problem := why_not_servable(header):
        raise InvalidModelFile(model.name, f"{model.path.rpartition('/')[2]} {problem}")
    projectors = [read_remote_header(hub, repository, [model.projector])] if model.projector else []
    companions = group_companions(map(read_companion, projectors))
    return RemoteModel(found, model_shape(header), header_facts(header), companions)


def check_fits(hub: Hub, machine: Machine, found: FoundModel) -> None:
    """Before the weights are downloaded. Raises ModelDoesNotFit with its numbers, and as `read_remote_model`."""
    if refusal := machine.refusal(read_remote_model(hub, found)):
        raise error_for(refusal)
