"""The data path: a request to the leased llama-server, and the bytes of its answer back to the client.

Uses the pool's leases and watches clients. Only the gunicorn worker and the composition root import it.
"""
