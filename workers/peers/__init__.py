"""Peers at work: the connections to other addresses whose models are served here, their keys, and the threads that read
what they list.
"""
