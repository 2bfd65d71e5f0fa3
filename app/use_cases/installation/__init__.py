"""Installation: the files of a systemd service, as text, from the packaged unit and what the operator chose.

Reads and writes nothing; used by `install-service`.
"""
