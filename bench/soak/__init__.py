"""The soak: faults of many kinds, every few seconds, in one running service that clients use meanwhile."""
