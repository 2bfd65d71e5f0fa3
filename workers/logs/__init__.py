"""What the service and its engines log: the last lines in memory for viewers, engines' lines also in files.

What may be kept of an engine's output is decided here: no text of requests.
"""
