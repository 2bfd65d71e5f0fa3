"""Reading GGUF files: names, first bytes and whole headers, in bounded pieces and never memory-mapped.

Imports no other worker package.
"""
