"""What the machine has free: GPUs by NVML, RAM by /proc.

nvml.py reads the GPUs and reports those that went missing; expected_gpus.py says whether a machine should have GPUs
where NVML lists none. Imports no other worker package. The only package that imports pynvml.
"""
