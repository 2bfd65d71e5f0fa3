"""HTTP: parse, ask, answer. Inference runs as plain WSGI, all other routes in Flask.

Asks use_cases for decisions and `Services` for the machine; may not import workers.
"""
