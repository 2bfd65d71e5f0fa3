"""The scheduler: `schedule.step` takes a state and an event, and returns the next state and its effects.

Each further module is one pass over the state or one question a pass asks. Imports placement; workers/pool runs it.
"""
