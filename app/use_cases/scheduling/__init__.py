"""The scheduler: `schedule.step` takes a state and an event, and returns the next state and the effects to carry out.

Every other module is one pass over the state, or answers one question that a pass has. docs/scheduling.md explains the
rules to users. Imports the placement package; workers/pool runs it.
"""
