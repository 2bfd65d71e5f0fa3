"""Models of Hugging Face repositories: what a repository has, and downloading it into the Hugging Face cache."""
