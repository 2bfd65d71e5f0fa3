"""A client's connection from accept to close: the gunicorn worker, its signals, the drain, error answers without Flask.

The only package that imports gunicorn. Uses relay for the framing of bodies and clients for the admission limit.
"""
