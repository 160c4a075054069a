"""What a person does with a scan: check, describe, fuse, label, predict.

``diagnosis`` finds what is wrong with it, from the ``evidence``, by undoing
``mistakes``. ``summary`` says what it holds. ``fuse`` puts the images' colours
on its points, with ``correlation`` for a result; ``label`` puts words there.
``predict`` labels any cloud with a trained network.
"""

__all__ = [
    "correlation",
    "diagnosis",
    "evidence",
    "fuse",
    "label",
    "mistakes",
    "predict",
    "summary",
]
