"""Bodies of requests: how much memory they take together, where they are kept, and the process that reads large ones.

Nothing here copies, parses or rewrites a large body under Python's lock, which would pause every running stream.
"""
