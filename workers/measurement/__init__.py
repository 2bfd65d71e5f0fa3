"""What loads really took: read from llama-server's log and the machine, remembered across restarts.

History is a SQLite file in the state directory. Imports gpu for readings of RAM; server and pool use it.
"""
