"""The command line: serve, estimate, plan, check-config.

The top of the program: may import everything, and nothing imports it. Heavy imports are made inside the functions,
so that --help is fast.
"""
