"""Scenes on disk: the one layout and its reader, PLY files, point clouds from depth images, and procedural rooms."""
