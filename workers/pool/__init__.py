"""The scheduler at work: carries out its effects and publishes its state, and gives requests their slots.

Runs `schedule.step` under the pool lock. Uses catalog and measurement to know what a model needs.
"""
