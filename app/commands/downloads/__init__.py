"""The commands about models of Hugging Face repositories: fetched, planned and deleted by a running service, or by the
command itself where none answers."""
