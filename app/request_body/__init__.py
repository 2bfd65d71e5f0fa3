"""What a request's body says: its model and the few options that the proxy acts on. Bytes in, values out, no I/O.

Small bodies are read where the request is answered, large ones in a process of their own (workers/request_bodies), by
the same functions. So this package imports neither Flask nor anything else that takes long to load.
"""
