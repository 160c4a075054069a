"""What a person does with a scan: find what is wrong with it (``diagnosis``,
from the ``evidence``, by undoing ``mistakes``), describe it (``summary``), fuse
its colours (``fuse``), label its points (``label``), and label any cloud with a
trained network (``predict``).
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
