"""Formats of posed images, one file a format."""
