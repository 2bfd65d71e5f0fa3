"""Benchmark of the data path against other proxies; see `python -m bench.relay --help`."""
