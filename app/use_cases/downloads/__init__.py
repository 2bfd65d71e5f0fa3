"""Models of Hugging Face repositories: which files a name means, which belong together, what a plan says. Pure.

The catalogue names what is in the cache by the same functions, so that a model has one name before and after.
"""
