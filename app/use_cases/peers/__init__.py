"""Peers, decided without I/O: which of their models a name means, when one that failed gets another request, and what
its list says.
"""
