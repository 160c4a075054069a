"""Weakly supervised 3D semantic segmentation from scene-level labels and a frozen 2D vision-language model.

The library behind the book: data walks one way, from posed images to point embeddings, pseudo labels, the adapter
and the evaluation. Each module is one chapter's subject; start with :mod:`vlg_lib.experiment` for the whole pipeline.
"""

__version__ = "0.1.0"
