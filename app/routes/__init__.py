"""HTTP: parse a request, authorize it, answer it. Inference routes are plain WSGI, all others Flask's.

Decisions come from use_cases, the machine from `Services`; may not import workers.
"""
