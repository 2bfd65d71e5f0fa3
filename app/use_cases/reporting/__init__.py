"""One account of the system for /health, the model lists, the page and /decisions.

Reads the scheduler's state and never changes it. The routes and the plan command ask it.
"""
