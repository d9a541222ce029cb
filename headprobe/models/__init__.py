"""Model families: loading, and turning examples and prompts into model inputs."""
