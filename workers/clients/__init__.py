"""Clients: who has disconnected, how many inference requests may run, the requests and tokens of each key.

Imports no other worker package.
"""
