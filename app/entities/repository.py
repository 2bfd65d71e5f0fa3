"""Models of Hugging Face repositories: how they are named, and their files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RepositoryName:
    """A model by name: "user/repo", "user/repo:Q4_K_M" or "user/repo:file.gguf"."""

    repo: str  # "user/repo"
    choice: str = ""  # a quantization or a file; "": the default one

    def __str__(self) -> str:
        return f"{self.repo}:{self.choice}" if self.choice else self.repo


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file of a repository at a revision."""

    path: str  # in the repository
    size_bytes: int
    sha256: str = ""  # "": not known, as of small files that git itself stores


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one revision."""

    repo: str  # "user/repo"
    revision: str  # the commit
    files: tuple[RepositoryFile, ...]
