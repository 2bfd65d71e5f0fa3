"""Decisions about models that are fetched by name: what a name means, which files, how fast, and is there room."""
