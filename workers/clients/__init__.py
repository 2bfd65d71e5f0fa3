"""Clients: who has disconnected, how many inference requests may run, the rate limit of each key.

Imports no other worker package.
"""
