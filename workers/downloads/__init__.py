"""Models fetched from Hugging Face repositories: what a repository has, what the headers of its files say, and the
downloads into the shared cache."""
