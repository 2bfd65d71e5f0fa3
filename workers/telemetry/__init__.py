"""What the service tells of itself: published snapshots, Prometheus metrics, the access log.

Imports no other worker package.
"""
