"""GGUF files: names, first bytes and whole headers, read in bounded pieces and never mapped.

Imports no other worker package; the catalogue and the commands use it.
"""
