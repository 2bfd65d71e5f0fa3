"""What a model's GGUF header says, arranged once per file so that an estimate only has to add.

Also what llama.cpp's source says about an architecture where the file is silent, and whether the model can be served
at all. Imports entities only.
"""
