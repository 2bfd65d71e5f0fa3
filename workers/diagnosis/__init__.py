"""Gathers the facts that `doctor` judges: GPUs, engine, models, machine, a running service.

Whatever may hang in a driver or a file system runs in a process of its own (bounded.py). Changes nothing.
"""
