"""Weakly supervised 3D semantic segmentation from scene-level labels and a
frozen 2D vision-language model.

The library behind the book: data walks one way, from posed images to point
embeddings, pseudo labels, the adapter and the evaluation. Each module is one
chapter's subject; start with :mod:`vlg_lib.pipeline.run` for the whole
pipeline.
"""

__version__ = "0.1.0"


def describe() -> str:
    """One line for the top of a notebook: versions, device and the profile that
    ``auto`` means here.
    """
    import platform

    import torch

    from vlg_lib.pipeline.profiles import get_profile

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return (
        f"vlg_lib {__version__} · Python {platform.python_version()} · torch"
        f" {torch.__version__} · {device} · profile {get_profile().name}"
    )
