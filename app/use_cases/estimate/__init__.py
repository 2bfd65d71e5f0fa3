"""How much memory a llama-server needs, per device and in RAM, worked out before it is loaded.

One module per item (weights, context, compute) and one for what loads beside the model. Imports model_shape; placement
and the estimate command ask it.
"""
