"""Carries out an installation: compares its files with those that exist, writes them, and runs its commands.

Used by `install-service`.
"""
