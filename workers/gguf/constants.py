"""The `gguf` package's constants, without the package.

Its __init__ imports numpy and every reader and writer: 64 ms, 19 MB and a thread of OpenBLAS. The file with the
constants leans on nothing: 7 ms and 1 MB (gguf 0.19.0).
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import constants
else:

    def _constants() -> ModuleType:
        package = importlib.util.find_spec("gguf")  # looks for it and runs nothing
        path = os.path.join(package.submodule_search_locations[0], "constants.py")
        # Under a name of its own: sys.modules must not hold a piece of a package that was not imported.
        spec = importlib.util.spec_from_file_location("gguf_constants", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    constants = _constants()

MAGIC = constants.GGUF_MAGIC.to_bytes(4, "little")
NEWEST_VERSION = constants.GGUF_VERSION
DEFAULT_ALIGNMENT = constants.GGUF_DEFAULT_ALIGNMENT
Keys = constants.Keys
ValueType = constants.GGUFValueType

# By the number in the file: name, values in a block, bytes of a block.
TENSOR_TYPES = {int(each): (each.name, *constants.GGML_QUANT_SIZES[each]) for each in constants.GGMLQuantizationType}
# As ggml has them (b11434, ggml-common.h): gguf 0.19.0 has 40 bytes for the one and does not know the other.
TENSOR_TYPES |= {9: ("Q8_1", 32, 36), 42: ("Q2_0", 64, 18)}
