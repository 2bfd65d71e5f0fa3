"""Engines: how a llama-server is built for this machine, as CMake variables and instruction sets.

Reads and runs nothing; used by `workers/engine_builds`, and so by `engine install` and bench/gpu.
"""
