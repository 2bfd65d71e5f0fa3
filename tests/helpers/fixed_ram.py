"""A machine with 16 GiB of available RAM, so that tests do not depend on the machine they run on.

The tests see it, and so does a service that is started as `python -P fixed_ram.py serve ...`.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from workers.gpu import ram

RAM_BYTES = 16 * 1024**3


def fix_ram() -> None:
    """Fix the RAM of this process and those it forks from now on."""
    memory = psutil.virtual_memory()._replace(total=RAM_BYTES, available=RAM_BYTES)
    psutil.virtual_memory = lambda: memory
    ram.OWN_CGROUP = Path(os.devnull)  # names no control group, whose limit would count


if __name__ == "__main__":
    from app.commands import cli

    fix_ram()
    cli.main()
