"""One llama-server as a process: spawn it, wait until it is ready, watch it, save its KV cache, stop and reap it.

One thread per server (llama_server.py). Uses measurement to record what a load took; the pool gives the orders.
"""
