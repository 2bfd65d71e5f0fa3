"""What the machine has free: GPUs by NVML, RAM by /proc, and the evidence that a GPU is missing.

Publishes snapshots through telemetry's store. The only package that imports pynvml.
"""
