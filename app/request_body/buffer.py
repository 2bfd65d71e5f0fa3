"""Buffer: a body's bytes, in memory or mapped."""

from __future__ import annotations

import mmap

Buffer = bytes | mmap.mmap
