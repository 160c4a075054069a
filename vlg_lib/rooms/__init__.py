"""The generated world: rooms from a seed, rendered to posed RGB-D frames."""
