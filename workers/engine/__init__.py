"""Which llama-server to run and what it can do: the configured binary, the one on PATH, or the embedded engine.

embedded_engine.py is a program of its own: it runs as a child process and imports none of our packages.
"""
