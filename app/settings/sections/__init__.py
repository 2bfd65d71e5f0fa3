"""The sections of the configuration, one class each: keys, defaults, validation, descriptions.

The settings as a whole, and rules between sections, are in app/settings/schema.py.
"""
