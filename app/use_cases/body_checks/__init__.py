"""What a request's body may ask of the engine: which media it may name, and how large a grammar or schema may be.

A parsed body is made of what `requested_model` reads: an object is a tuple of pairs, an array a list, a number a float.
"""
