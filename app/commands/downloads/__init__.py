"""The commands for models of Hugging Face repositories: downloaded, planned and deleted by a running service, or by the
command itself where none answers."""
