"""A fake nvidia-ml-py with one GPU, on which each running disguised server uses memory.

Copied as pynvml.py into a folder on PYTHONPATH. Each server uses 700 MiB, so that there is overhead beyond the buffers
of a tiny model.
"""

from pathlib import Path
from types import SimpleNamespace

MIB = 1024**2
TOTAL, OF_A_PROCESS, OF_OTHERS = 16 * 1024 * MIB, 700 * MIB, 300 * MIB


class NVMLError(Exception):
    pass


def nvmlInit():
    pass


def nvmlDeviceGetCount():
    return 1


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetName(handle):
    return "Fake GPU 16GB"


def nvmlDeviceGetUUID(handle):
    return "GPU-0"


def nvmlDeviceGetCudaComputeCapability(handle):
    return 9, 0


def nvmlSystemGetCudaDriverVersion_v2():
    return 13000


def nvmlSystemGetDriverVersion():
    return "580.1"


def nvmlDeviceGetMemoryInfo(handle):
    used = OF_OTHERS + OF_A_PROCESS * len(_pids())
    return SimpleNamespace(total=TOTAL, used=used, free=TOTAL - used)


def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(pid=pid, usedGpuMemory=OF_A_PROCESS) for pid in _pids()]


def nvmlDeviceGetGraphicsRunningProcesses(handle):
    return []


def _pids():
    """Pids of the disguised servers that have this GPU in their environment."""
    return [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if b"disguised_server.py" in _read(folder / "cmdline")
        and b"CUDA_VISIBLE_DEVICES=GPU-0" in _read(folder / "environ")
    ]


def _read(file):
    try:
        return file.read_bytes()
    except OSError:
        return b""
