"""The machine's resources: GPUs by NVML, RAM by /proc and cgroups, and evidence that a GPU is missing.

Imports no other worker package. The only package that imports pynvml.
"""
