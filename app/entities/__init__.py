"""Values that every layer shares: models, servers, GPUs, placements, refusals, keys.

Frozen dataclasses and enums over the standard library alone. Everything may import this package; it imports nothing.
"""
