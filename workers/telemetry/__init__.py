"""What the service publishes about itself: state snapshots, Prometheus metrics, the access log.

Imports no other worker package.
"""
