"""Changes of behaviour that an existing configuration may rely on, as far as the configuration shows it.

docs/upgrading.md has all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.entities.launch import ALL_LAYERS, AUTO_PROMPT_CACHE, AUTO_UBATCH, LoadMode
from app.entities.model import Model, ModelSource
from app.entities.model_name import is_glob
from app.settings.schema import Settings
from app.use_cases.launch.load_mode import decides_itself

MAX_NAMED = 5  # models: more are counted
LARGEST_EARLIER_UBATCH = 2048  # tokens: llama-server's batch


@dataclass(frozen=True, slots=True)
class Change:
    """`relies_on_it`: what relies on the earlier behaviour, "" for nothing, of these settings and models."""

    name: str
    relies_on_it: Callable[[Settings, Sequence[Model]], str]
    now: str  # what it is like now, and what to do

    def notice(self, settings: Settings, models: Sequence[Model]) -> str:
        """What to tell the operator; "" if nothing relies on the earlier behaviour."""
        found = self.relies_on_it(settings, models)
        return f"{found}: {self.now}" if found else ""


def _models_with_projectors(settings: Settings, models: Sequence[Model]) -> str:
    is_decided = "media_urls" in settings.upstream.model_fields_set
    return "" if is_decided else _named("model", (model.name for model in models if model.launch.mmproj))


def _limited_keys(settings: Settings, models: Sequence[Model]) -> str:
    return _named("key", (key.name for key in settings.api_keys() if key.is_limited))


def _models_that_keys_adjust(settings: Settings, models: Sequence[Model]) -> str:
    if all(key.admin for key in settings.api_keys()):
        return ""
    return _named("model", _with_argument(models, ("--lora", "--props", "--slot-save-path")))


def _models_with_more_checkpoints(settings: Settings, models: Sequence[Model]) -> str:
    is_decided = "max_excess_memory" in settings.scheduling.model_fields_set
    return "" if is_decided else _named("model", _with_argument(models, ("--ctx-checkpoints", "--swa-checkpoints")))


def _models_with_automatic_context(settings: Settings, models: Sequence[Model]) -> str:
    return _named_or_counted([model.name for model in models if model.constraints.has_auto_context], "ctx_size auto")


def _any_path(settings: Settings, models: Sequence[Model]) -> str:
    is_decided = "load_on_any_path" in settings.catalog.model_fields_set
    return "" if is_decided or not models else "requests on paths that are not inference routes"


def _models_that_embed(settings: Settings, models: Sequence[Model]) -> str:
    found = [model for model in models if model.launch.options.ubatch_size == AUTO_UBATCH]
    return _named("model", _with_argument(found, ("--embedding", "--rerank")))


def _models_with_large_ubatches(settings: Settings, models: Sequence[Model]) -> str:
    found = [model.name for model in models if model.launch.options.ubatch_size > LARGEST_EARLIER_UBATCH]
    return _named_or_counted(found, f"a ubatch_size above {LARGEST_EARLIER_UBATCH}")


def _models_with_spare_caches(settings: Settings, models: Sequence[Model]) -> str:
    if "prompt_cache" in settings.defaults.model_fields_set:
        return ""
    found = [model.name for model in models if model.launch.options.prompt_cache == AUTO_PROMPT_CACHE]
    return _named_or_counted(found, "prompt_cache auto")


def _models_wholly_on_gpus(settings: Settings, models: Sequence[Model]) -> str:
    if "load_mode" in settings.defaults.model_fields_set:
        return ""
    options = ((model.name, model.launch.options) for model in models if not decides_itself(model.launch))
    found = [name for name, each in options if each.load_mode is LoadMode.AUTO and each.n_gpu_layers >= ALL_LAYERS]
    return _named_or_counted(found, "load_mode auto")


def _models_with_globs(settings: Settings, models: Sequence[Model]) -> str:
    return _named("model", (model.name for model in models if any(map(is_glob, model.aliases))))


def _models_of_other_programs(settings: Settings, models: Sequence[Model]) -> str:
    decided = settings.catalog.model_fields_set
    new = [each for each in (ModelSource.OLLAMA, ModelSource.LM_STUDIO) if each.value not in decided]
    found = [model.name for model in models if model.source in new]
    return _named("model", found) if len(found) <= MAX_NAMED else f"{len(found)} models of Ollama and LM Studio"


def _agents(settings: Settings, models: Sequence[Model]) -> str:
    """Only the original's configuration can have had some before."""
    return _named("agent", settings.agents)


def _named_or_counted(models: Sequence[str], have: str) -> str:
    return _named("model", models) if len(models) <= MAX_NAMED else f"{len(models)} models with {have}"


def _with_argument(models: Iterable[Model], options: tuple[str, ...]) -> list[str]:
    return [model.name for model in models if any(each.startswith(options) for each in model.launch.args)]


def _named(kind: str, names: Iterable[str]) -> str:
    found = list(names)
    return f"{kind}{'s' if len(found) > 1 else ''} {', '.join(found)}" if found else ""


CHANGES = (
    Change(
        "media-urls",
        _models_with_projectors,
        "http: URLs of images, audio and video are rejected; upstream.media_urls permits them",
    ),
    Change(
        "limited-keys",
        _limited_keys,
        "other models are answered with 404 instead of 403, and /metrics shows only the key's own models",
    ),
    Change(
        "admin-routes",
        _models_that_keys_adjust,
        "POST /lora-adapters, /props and /slots need a key with admin: true",
    ),
    Change(
        "automatic-context",
        _models_with_automatic_context,
        "the context no longer depends on what is loaded; of a model that is split, evicts others or runs on the CPU "
        "it was 4096 and may be longer now, which takes more memory; ctx_size: 4096 restores it",
    ),
    Change(
        "load-on-any-path",
        _any_path,
        "they reach only a model that is loaded, and are 404 otherwise; catalog.load_on_any_path: true loads it",
    ),
    Change(
        "embedding-batches",
        _models_that_embed,
        "inputs may be as long as a slot's context, 8,192 tokens with ctx_size auto, which takes more memory; "
        "ubatch_size: 512 restores it",
    ),
    Change(
        "large-ubatches",
        _models_with_large_ubatches,
        "llama-server reduced a ubatch_size above 2048; now it is used, which takes more memory; ubatch_size: 2048 "
        "restores it",
    ),
    Change(
        "prompt-cache",
        _models_with_spare_caches,
        "llama-server keeps conversations without a slot in RAM that is free when the model is loaded, 8 GiB at most; "
        "defaults.prompt_cache: 0 restores it",
    ),
    Change(
        "load-mode",
        _models_wholly_on_gpus,
        "where all weights go to GPUs with CUDA, the file is no longer mapped but read into buffers; "
        "defaults.load_mode: mmap restores it",
    ),
    Change(
        "alias-globs",
        _models_with_globs,
        "* and ? in an alias stand for any characters and for any one: the alias is the name of more than it was",
    ),
    Change(
        "agents",
        _agents,
        "chat requests that name an agent in their messages are changed or answered by it (docs/agents.md); to prevent "
        "this, remove its name",
    ),
    Change(
        "other-programs",
        _models_of_other_programs,
        "models that Ollama and LM Studio have downloaded are listed and served, too; catalog.ollama: off and "
        "catalog.lm_studio: off prevent this",
    ),
    Change(
        "excess-memory",
        _models_with_more_checkpoints,
        "a llama-server that holds far more RAM than was booked is killed; scheduling.max_excess_memory sets how much",
    ),
)
