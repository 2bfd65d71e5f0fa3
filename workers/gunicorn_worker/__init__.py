"""The gunicorn worker: client connections from accept to close, signals, draining, and error answers without Flask.

The only package that imports gunicorn; `compatibility` lists the names it relies on. One main loop accepts, reads
request heads and closes; request threads answer.
"""
