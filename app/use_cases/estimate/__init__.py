"""How much memory a llama-server needs, per device and in RAM, computed before it is loaded.

One module per item (weights, context, compute) and one for companion files. Imports model_shape; used by placement and
the estimate command.
"""
