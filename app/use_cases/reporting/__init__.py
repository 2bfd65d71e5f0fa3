"""Reports on the system: /health, the model lists, the status page and /decisions.

Reads the scheduler's state and never changes it. Used by the routes and the plan command.
"""
