"""Runs llama.cpp's own server tests against llama-server and against the proxy; see `--help`."""
