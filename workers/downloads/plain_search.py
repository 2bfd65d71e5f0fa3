"""What a name means in a repository, plainly: the files whose names have the quantization. Until the choice by
companions, parts and quantizations is there."""

from __future__ import annotations

from huggingface_hub import HfApi

from app.entities.gguf_names import file_stem, quantization
from app.entities.repository import Repository, RepositoryFile, RepositoryName
from app.errors import ModelNotFound
from workers.downloads.failures import failure_of
from workers.downloads.found_model import FoundModel

DEFAULT = "Q4_K_M"


def find_plainly(name: RepositoryName) -> FoundModel:
    """Raises ModelNotFound and DownloadFailed."""
    try:
        info = HfApi().model_info(name.repo, files_metadata=True, timeout=10)
    except Exception as error:
        raise failure_of(error, name.repo) from error
    files = tuple(
        RepositoryFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else "")
        for each in getattr(info, "siblings", None) or ()
        if each.rfilename.lower().endswith(".gguf")
    )
    chosen = [file for file in files if (name.choice or DEFAULT).lower() in file.path.lower()]
    if not chosen:
        raise ModelNotFound(str(name), "the repository has no such file")
    kind = quantization(file_stem(chosen[0].path)) or chosen[0].path
    return FoundModel(f"{name.repo}:{kind}", Repository(name.repo, info.sha or "", files), tuple(chosen))
