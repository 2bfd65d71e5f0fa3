"""Where a model is placed: on one GPU, several, or the CPU; which servers are evicted for it; or why it is refused.

The ledger holds what is free. Imports estimate and model_shape; used by the scheduler and the plan command.
"""
