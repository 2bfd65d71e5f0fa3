"""A model's files as the kernel has them: what of them is in the page cache, on which file system, and reading ahead.

Imports nothing of ours but decisions; the composition root connects it to servers and the pool.
"""
