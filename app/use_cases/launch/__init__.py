"""The command line and environment of one llama-server, and which saved KV caches it starts with.

Imports estimate for the types of KV caches; workers/server executes what it says.
"""
