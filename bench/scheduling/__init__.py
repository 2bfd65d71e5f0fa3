"""A simulation of models that compete for memory: the real scheduler and its peers on the same requests."""
