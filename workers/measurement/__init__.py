"""The memory that loads really took: read from llama-server's log, NVML and /proc, and kept across restarts.

The history is a SQLite file in the state directory. Imports gpu to read RAM; server and pool use it.
"""
