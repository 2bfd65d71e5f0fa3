"""The machine: threads, processes, sockets and files. A "worker" here is a background thread.

The composition root is the modules directly in this folder (runtime.py first): they build the service from the settings
and know every class. Each package below is one subject, and imports point one way (tests/test_imports.py).
"""
