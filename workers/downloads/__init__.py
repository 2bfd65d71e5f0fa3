"""Models of Hugging Face repositories: what a repository has, and fetching it into the Hugging Face cache."""
