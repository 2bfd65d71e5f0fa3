"""Writes models as Ollama stores them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers.gguf_bytes import PROJECTOR, TINY, Info, a_file

LIBRARY = "registry.ollama.ai/library"
ADAPTER = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}


def a_blob(store: Path, content: bytes) -> str:
    """The digest of the content, which is stored."""
    digest = hashlib.sha256(content).hexdigest()
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    (store / "blobs" / f"sha256-{digest}").write_bytes(content)
    return f"sha256:{digest}"


def gguf_bytes(metadata: Mapping[str, Any] | None = None, name: str = "a") -> bytes:
    """A model of one layer, other than those of other names."""
    return a_file({**(TINY if metadata is None else metadata), "general.name": name}, [Info("t")])


def a_projector(name: str = "a") -> bytes:
    return gguf_bytes(PROJECTOR, name)


def a_manifest(store: Path, path: str, root: str = "manifests", **layers: bytes) -> Path:
    """A manifest at `path`, HOST/NAMESPACE/MODEL/TAG, with layers by the last word of their media types."""
    entries = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": a_blob(store, content), "size": len(content)}
        for kind, content in layers.items()
    ]
    return a_manifest_file(store, path, {"schemaVersion": 2, "layers": entries}, root)


def a_manifest_file(store: Path, path: str, content: object, root: str = "manifests") -> Path:
    file = store / root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file
