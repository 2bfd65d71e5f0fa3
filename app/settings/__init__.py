"""Every setting, declared once: defaults, validation, hints about typos, the reference page.

Also reads the config.json of the original service. Imports entities only; the composition root (workers/runtime.py)
turns settings into parts.
"""
