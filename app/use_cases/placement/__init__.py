"""Where a model goes: one GPU, several, or the CPU, which idle servers would have to leave, or why there is no place.

The ledger says what is free. Imports estimate and model_shape; the scheduler and the plan command ask it.
"""
