"""One llama-server as a process: spawn, wait until ready, watch, save its KV cache, stop, reap.

A thread per server, in llama_server.py. Uses measurement to record what a load took; the pool gives the orders.
"""
