"""Loads the models that are to be loaded before a request needs them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from app.entities.model import Model
from app.errors import ProxyError
from workers.catalog.catalog import Catalog

log = logging.getLogger(__name__)


def begin_preload(names: Iterable[str], catalog: Catalog, load: Callable[[Model], None]) -> None:
    """Load the models one after the other, each once the one before is starting, on a thread of its own."""
    if preloaded := [*names]:
        threading.Thread(target=_preload, args=(preloaded, catalog, load), name="preload", daemon=True).start()


def _preload(names: list[str], catalog: Catalog, load: Callable[[Model], None]) -> None:
    for name in names:
        try:
            load(catalog.servable(catalog.find(name)))
        except ProxyError as error:
            log.warning("not preloaded model=%s: %s", name, error)
