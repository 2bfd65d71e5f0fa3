"""The commands about engines built on this machine: `engine install`, `list`, `use` and `remove`.

They read and write the cache directory; a running service is not asked.
"""
