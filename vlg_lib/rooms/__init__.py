"""The generated world: rooms from a seed, rendered to posed RGB-D frames.

``plan``: what stands where. ``furniture``: objects made of boxes.
``materials``, ``textures``: what they look like. ``render``: a photograph.
``scenes``: views, scans and scene folders.
"""

__all__ = ["furniture", "materials", "plan", "render", "scenes", "textures"]
