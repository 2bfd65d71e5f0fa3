"""The gunicorn worker: a client's connection from accept to close, signals, the drain, error answers without Flask.

The only package that imports gunicorn; `compatibility` lists the names it relies on. One main loop accepts, reads heads
and closes; a pool of threads answers.
"""
