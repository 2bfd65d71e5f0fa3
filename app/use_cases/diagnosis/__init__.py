"""Diagnosis: what is wrong with this installation, and what to do about it, from facts that were gathered elsewhere.

Each module has the facts of one subject and a function from them to findings. Reads nothing; used by `doctor`.
"""
