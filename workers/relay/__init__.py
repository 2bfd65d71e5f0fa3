"""The data path: a request to the leased llama-server, and the bytes of its answer back to the client.

Imports no other worker package. Only the composition root imports it.
"""
