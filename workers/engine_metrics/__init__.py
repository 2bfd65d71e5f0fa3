"""What the loaded llama-servers say about themselves (/metrics, /slots), read in the background by one thread.

A scrape or a viewer gets the last reading and never waits for an engine. Reading takes no slot and is not a use.
"""
