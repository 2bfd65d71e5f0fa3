"""The constants of the `gguf` package, loaded without importing the package.

Its __init__ imports numpy and every reader and writer: 64 ms, 19 MB and an OpenBLAS thread. Its constants.py has no
such imports: 7 ms and 1 MB (gguf 0.19.0).
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import constants
else:

    def _load_constants() -> ModuleType:
        package = importlib.util.find_spec("gguf")  # locates the package without running it
        path = os.path.join(package.submodule_search_locations[0], "constants.py")
        # Under another name: sys.modules must not hold a submodule of a package that was not imported.
        spec = importlib.util.spec_from_file_location("gguf_constants", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    constants = _load_constants()

MAGIC = constants.GGUF_MAGIC.to_bytes(4, "little")
NEWEST_VERSION = constants.GGUF_VERSION
DEFAULT_ALIGNMENT = constants.GGUF_DEFAULT_ALIGNMENT
Keys = constants.Keys
ValueType = constants.GGUFValueType

# By the type number in the file: name, values per block, bytes per block.
TENSOR_TYPES = {int(kind): (kind.name, *constants.GGML_QUANT_SIZES[kind]) for kind in constants.GGMLQuantizationType}
# From ggml (b11434, ggml-common.h): gguf 0.19.0 gives Q8_1 40 bytes and lacks Q2_0.
TENSOR_TYPES |= {9: ("Q8_1", 32, 36), 42: ("Q2_0", 64, 18)}
