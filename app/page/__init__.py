"""The status page: what GET /status, GET /plan and GET /status/history say, as the texts and shapes of the page.

The page is complete without scripts; templates/static has the same functions for its live updates.
"""
