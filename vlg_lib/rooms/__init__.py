"""The generated world: rooms made from a seed, rendered to posed RGB-D
frames.
"""
