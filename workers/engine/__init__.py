"""Selects the llama-server to run (configured, on PATH, or embedded) and probes what it supports.

embedded_engine.py is a separate program: it runs as a child process and imports none of our packages.
"""
