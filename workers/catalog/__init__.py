"""Names to models: configured entries, folders of GGUF files, the Hugging Face cache, other programs' folders.

The only way from a client's name to a path. Imports gguf for headers.
"""
