"""Ollama's API in terms of llama-server's own routes: requests translated one way, answers the other, and the lists of
models in Ollama's form. Parsed JSON in, JSON values out; nothing here reads bytes, clocks or files.
"""
