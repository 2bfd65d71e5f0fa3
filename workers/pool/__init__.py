"""The scheduler at work: events in, effects carried out, snapshots published.

Calls `schedule.step` under one lock holder at a time. Uses catalog and measurement to know what a model needs.
"""
