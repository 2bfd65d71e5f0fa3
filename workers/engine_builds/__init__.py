"""Builds llama-server from a source package of llama.cpp: the source, the tools, the build and its installation.

Used by `engine install` and by bench/gpu, which runs on machines with few Python packages: these modules import nothing
heavy. What is installed is read by workers/engine.
"""
