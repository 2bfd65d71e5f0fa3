"""Clients as a whole: who has disconnected, how many inference requests may run, what a key's rate limit leaves.

Imports no other worker package.
"""
