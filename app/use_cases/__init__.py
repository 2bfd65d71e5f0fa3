"""Pure decisions, a package per subject: no clock, no thread, no I/O. Time and readings arrive as arguments.

Imports go one way: reporting -> scheduling -> placement -> estimate -> model_shape, and launch -> estimate.
"""
