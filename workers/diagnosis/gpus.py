"""The GPUs: by NVML, as the engine sees them, and the driver's files."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.entities.gpu import GpuSnapshot
from app.entities.launch import EngineFacts
from app.use_cases.diagnosis.gpus import DeviceFile
from app.use_cases.placement.engine_gpus import DeviceList, EngineProbe, as_the_engine_sees_them
from workers.engine.gpu_probe import list_devices, listed_memory, probe_gpus
from workers.gpu.expected_gpus import GpuHistory, evidence_of_gpus
from workers.gpu.nvml import Nvml


def read_machine_gpus(visible: str | None, history: GpuHistory, root: Path = Path("/")) -> GpuSnapshot:
    """What NVML lists, and without a GPU the evidence that there should be one. May hang in the driver."""
    return _with_evidence(Nvml(visible).read_gpus(), history, root)


def read_engine_gpus(
    engine: EngineFacts,
    env: Mapping[str, str],
    read: GpuSnapshot,
    visible: str | None,
    history: GpuHistory,
    root: Path = Path("/"),
) -> tuple[GpuSnapshot, DeviceList | None]:
    """The GPUs as the engine sees them, and its own list. `read`: what NVML said; without a GPU it is not asked once
    more. Starts the engine, which takes seconds each time."""
    devices = list_devices(engine, env)
    if not (read.gpus or read.missing):
        return read, devices
    snapshot = Nvml(visible, listed_memory=partial(listed_memory, engine, env)).read_gpus()
    probe = probe_gpus(engine, env, snapshot.gpus, lambda: None) if snapshot.gpus else EngineProbe()
    return _with_evidence(as_the_engine_sees_them(snapshot, probe), history, root), devices


def _with_evidence(snapshot: GpuSnapshot, history: GpuHistory, root: Path) -> GpuSnapshot:
    return snapshot if snapshot.gpus else replace(snapshot, expected=evidence_of_gpus(history, root))


def device_files(root: Path = Path("/")) -> list[DeviceFile]:
    """NVIDIA's device files."""
    paths = sorted((root / "dev").glob("nvidia*"))
    return [_device_file(path, root) for path in paths if path.is_char_device() or root != Path("/")]


def _device_file(path: Path, root: Path) -> DeviceFile:
    status = path.stat()
    is_group_readable = status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP
    group = next(_group_name(status.st_gid), "") if is_group_readable and status.st_gid else ""
    name = f"/{path.relative_to(root)}"
    return DeviceFile(name, os.access(path, os.R_OK | os.W_OK), group)


def _group_name(gid: int) -> Iterator[str]:
    try:
        yield grp.getgrgid(gid).gr_name
    except KeyError:
        yield str(gid)


def is_nouveau_loaded(root: Path = Path("/")) -> bool:
    return (root / "sys/module/nouveau").exists()


def is_in_container(root: Path = Path("/")) -> bool:
    """Docker, Podman, or another runtime that says so to systemd's tools."""
    marks = (root / ".dockerenv", root / "run/.containerenv", root / "run/systemd/container")
    return any(mark.exists() for mark in marks)
