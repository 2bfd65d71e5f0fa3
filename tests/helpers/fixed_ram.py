"""A machine of 16 GiB of RAM, all of it available: what a test expects must not depend on where and when it runs.

The tests see it, and so does a service that is started as `python -P fixed_ram.py serve ...`.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from workers.gpu import ram

RAM_BYTES = 16 * 1024**3


def fix_ram() -> None:
    """From now on, in this process and those that it forks."""
    memory = psutil.virtual_memory()._replace(total=RAM_BYTES, available=RAM_BYTES)
    psutil.virtual_memory = lambda: memory
    ram.OWN_CGROUP = Path(os.devnull)  # names no control group, whose limit would count


if __name__ == "__main__":
    from app.commands import cli

    fix_ram()
    cli.main()
