"""A simulation of models under contention: the scheduler that runs, and its peers, on the same requests."""
