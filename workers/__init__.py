"""The machine: threads, processes, sockets and files. A "worker" here is a background thread.

The composition root lives in this folder itself (runtime.py, parts.py, pinned.py, serve.py) and knows every class; the
packages below it are one subject each, and their imports point one way (tests/test_imports.py).
"""
