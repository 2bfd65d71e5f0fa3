"""Builds the catalogue from the settings: which folders it scans, and which models are configured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from app.entities.model import Replicas
from app.settings.schema import Settings
from app.settings.sections.speculative import SpeculativeSettings
from app.use_cases.model_shape.shape import ModelShape
from workers.catalog.catalog import Catalog, ConfiguredModel
from workers.catalog.demo_model import write_demo_model
from workers.catalog.lm_studio import lm_studio_folders
from workers.catalog.model_files import LoraAdapter
from workers.catalog.model_headers import ModelHeaders
from workers.catalog.ollama_store import ollama_folders
from workers.catalog.other_programs import ProgramFolder
from workers.folders import cache_folder


def build_catalog(
    settings: Settings,
    shapes: ModelHeaders[ModelShape] | None = None,
    earlier: Catalog | None = None,
    with_demo: bool = True,
) -> Catalog:
    """The catalogue for these settings, scanned. `shapes` caches what is read from the models' headers; `earlier`: the
    catalogue that this one may replace; `with_demo`: the demo model is written if nothing is configured.

    Raises OSError if the demo model is needed and cannot be written.
    """
    folders = _models_folders(settings) if with_demo else settings.catalog.models_dirs
    return Catalog(
        folders,
        settings.launch_of(),
        hugging_face_cache(settings),
        _entries(settings),
        settings.folder,
        shapes,
        settings.constraints_of(),
        earlier,
        settings.catalog.default_model,
        {name: tuple(models) for name, models in settings.any_of.items()},
        _program_folders(settings.catalog.lm_studio, lm_studio_folders),
        _program_folders(settings.catalog.ollama, lambda: ollama_folders(os.environ)),
    )


def has_models(settings: Settings) -> bool:
    """Whether models, or folders with models, are configured."""
    catalog = settings.catalog
    chosen = any(folder not in ("auto", "off") for folder in (catalog.ollama, catalog.lm_studio))
    return bool(catalog.models_dirs or settings.models or chosen)


def _models_folders(settings: Settings) -> list[Path]:
    """The configured folders, or one with the demo model if nothing is configured."""
    if has_models(settings):
        return list(settings.catalog.models_dirs)
    folder = cache_folder() / "demo"
    try:
        return [write_demo_model(folder).parent]
    except OSError as error:
        raise OSError(
            f"cannot write the demo model to {folder} ({error.strerror}); specify --models-dir DIR"
        ) from error


def hugging_face_cache(settings: Settings) -> Path | None:
    """Where Hugging Face's libraries store downloads, by their own rules; None if the setting is "off"."""
    chosen = settings.catalog.hugging_face.cache
    if chosen == "off":
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE if chosen == "auto" else chosen)


def _program_folders(chosen: str, usual: Callable[[], tuple[ProgramFolder, ...]]) -> tuple[ProgramFolder, ...]:
    """Where another program keeps its models: for "auto" the usual places, for "off" none."""
    if chosen in ("auto", "off"):
        return usual() if chosen == "auto" else ()
    return (ProgramFolder(chosen, is_configured=True),)


def _draft(settings: Settings, name: str) -> str:
    chosen = settings.models[name].over(settings.defaults).speculative
    return chosen.draft or "" if isinstance(chosen, SpeculativeSettings) else ""


def _entries(settings: Settings) -> list[ConfiguredModel]:
    """The configured models."""
    return [
        ConfiguredModel(
            name=name,
            launch=settings.launch_of(name),
            path=model.path,
            repo=model.repo,
            aliases=tuple(model.aliases),
            mmproj=model.mmproj,
            lora=tuple(LoraAdapter(os.fspath(each.path), each.scale) for each in model.lora),
            draft=_draft(settings, name),
            ttl_seconds=model.ttl_seconds,
            constraints=settings.constraints_of(name),
            pin=model.pin,
            priority=model.priority,
            keep_kv_cache=model.keep_kv_cache,
            replicas=Replicas(model.replicas.min, model.replicas.max),
            requests=(rules := model.requests.rules()),
            variants={variant: rules.overridden_by(each.rules()) for variant, each in model.variants.items()},
        )
        for name, model in settings.models.items()
    ]
