"""What the command line prints about a service: texts, tables and bars, made from the service's JSON.

Pure: nothing here asks the service, reads a clock or writes. Names in that JSON are data: `printable` before they are
shown, and never rich's markup. rich is imported inside the functions, so that --help is fast.
"""
