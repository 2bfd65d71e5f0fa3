"""The proxy without the machine: values, decisions, settings, HTTP routes and the command line.

Nothing here starts a thread or touches a process. Only app/commands, which starts the service, imports workers.
"""
