"""Calls the tool in a process of its own, which llama.cpp may abort: child.py LIBRARY ARGUMENT..."""

import ctypes
import sys

# Global: the engine's symbols are looked up in the tool first.
library = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
arguments = [each.encode() for each in sys.argv[1:]]
sys.exit(library.memory_figures(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments)))
