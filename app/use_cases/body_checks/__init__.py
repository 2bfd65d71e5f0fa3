"""What a request's body may ask of the engine: which media it may name, and how large a grammar or schema may be.

A parsed body is what `request_body.json_body` reads: an object is a tuple of pairs, an array a list, a number a float.
"""
