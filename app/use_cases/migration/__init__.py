"""Migration: another program's configuration as ours, and what changes for its users.

Pure: takes what was read from a file, returns settings and remarks. Runs no command, no shell and no engine. Used by
`convert-config`.
"""
