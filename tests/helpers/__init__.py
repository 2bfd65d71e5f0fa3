"""Builders, scripted servers and the running service: what tests share. Nothing here is a test."""
