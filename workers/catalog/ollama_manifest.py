"""Ollama's manifests: which files form a model, and what it is called.

A manifest is foreign data: it names files by their digests and nothing else. Read as Ollama does (ollama/ollama,
manifest/{paths,manifest}.go, types/model/name.go, server/images.go:GetModel).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_MANIFEST_BYTES = 1 << 20  # they have some hundred bytes, of models in single tensors a few hundred kilobytes

_LAYER = "application/vnd.ollama.image."
_USED = ("model", "projector", "adapter", "params", "system")  # server/images.go:GetModel; of one kind the last counts
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII)  # manifest/paths.go:BlobsPath
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", re.ASCII)  # types/model/name.go:isValidPart, a colon for ports
_MAX_PART = 128  # characters
_PUBLIC_HOSTS = ("registry.ollama.ai", "ollama.com")  # one registry: manifest/paths.go:isDefaultPublicHost
_REPOSITORY_HOSTS = ("hf.co", "huggingface.co")
_LATEST = "latest"
# Of a manifest list: what each of its manifests is for, the best one for llama.cpp first. "ollama" and "ggml" are names
# of Ollama's own engine, which reads GGUF, too.
_RUNNERS = ("llamacpp", "", "ollama", "ggml")


class InvalidManifest(ValueError):
    """What is wrong with a manifest, to follow its path."""


@dataclass(frozen=True, slots=True)
class ManifestName:
    """The name of a model, from the path of its manifest: HOST/NAMESPACE/MODEL/TAG."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def is_valid(self) -> bool:
        return all(len(part) <= _MAX_PART and _PART.fullmatch(part) for part in self._parts)

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.host, self.namespace, self.model, self.tag

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for equal names, which Ollama compares regardless of case."""
        host = _PUBLIC_HOSTS[0] if self.host in _PUBLIC_HOSTS else self.host
        return tuple(part.lower() for part in (host, *self._parts[1:]))

    @property
    def listed(self) -> tuple[str, ...]:
        """The names to list it under, best first: those that `ollama list` shows, without the tag that means none."""
        return self._with_tags(self._short)

    @property
    def others(self) -> tuple[str, ...]:
        """Further names that Ollama understands; of a Hugging Face repository also its name there."""
        models = dict.fromkeys(f"{prefix}/{self.model}" for prefix in self._prefixes)
        return tuple(name for model in models for name in self._with_tags(model))

    @property
    def _short(self) -> str:
        if self.host not in _PUBLIC_HOSTS:
            return f"{self.host}/{self.namespace}/{self.model}"
        return self.model if self.namespace == "library" else f"{self.namespace}/{self.model}"

    @property
    def _prefixes(self) -> list[str]:
        hosts = next((group for group in (_PUBLIC_HOSTS, _REPOSITORY_HOSTS) if self.host in group), ())
        return [*(f"{host}/{self.namespace}" for host in hosts), *([self.namespace] if hosts else [])]

    def _with_tags(self, model: str) -> tuple[str, ...]:
        return (model, f"{model}:{_LATEST}") if self.tag == _LATEST else (f"{model}:{self.tag}",)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The layers of a model that are used, as names of files in `blobs`."""

    model: str
    projectors: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    parameters: str = ""  # "": none
    system_prompt: str = ""


def parse_manifest(data: bytes) -> Manifest | str | None:
    """What is in a manifest; of a list of them, the name of the blob with the one for llama.cpp; None for a model that
    is not in a GGUF file: one in the cloud, or in tensors. Raises InvalidManifest."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest("is not JSON") from error
    if not isinstance(manifest, dict):
        raise InvalidManifest("is not a JSON object")
    if "manifests" in manifest:
        return _best_of(manifest["manifests"])
    blobs: dict[str, list[str]] = defaultdict(list)
    for layer in _objects(manifest.get("layers")):
        kind = str(layer.get("mediaType")).removeprefix(_LAYER)
        if kind in _USED:
            blobs[kind].append(_blob_name(layer))
    if not blobs["model"]:
        return None
    return Manifest(
        blobs["model"][-1],
        tuple(blobs["projector"]),
        tuple(blobs["adapter"]),
        "".join(blobs["params"][-1:]),
        "".join(blobs["system"][-1:]),
    )


def _best_of(manifests: object) -> str | None:
    """manifest/manifest.go:selectManifestWithPreferences."""
    readable = [each for each in _objects(manifests) if each.get("format", "gguf") == "gguf"]
    ranked = [each for runner in _RUNNERS for each in readable if each.get("runner", "") == runner]
    return _blob_name(ranked[0]) if ranked else None


def _objects(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidManifest("has no list of layers")
    return value


def _blob_name(layer: Mapping[str, Any]) -> str:
    """The name of a layer's file: always of this form, so that no manifest leads out of `blobs`."""
    match = _DIGEST.fullmatch(str(layer.get("digest")))
    if match is None:
        raise InvalidManifest("has a layer without a SHA-256 digest")
    return f"sha256-{match[1]}"
