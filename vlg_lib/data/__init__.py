"""Where scenes come from: the one on-disk layout, and the procedural rooms."""
