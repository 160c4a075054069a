"""What is here: versions, device, profiles, the 2D models and the 3D networks,
in words.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import vlg_lib
from vlg_lib.networks.zoo import list_checkpoints, load_checkpoint
from vlg_lib.pipeline.cache import default_cache
from vlg_lib.pipeline.profiles import PROFILES, get_profile
from vlg_lib.vision_language import list_models
from vlg_lib.vision_language.readouts import READOUTS


def environment() -> str:
    """One line for the top of a notebook: versions, device and the profile that
    ``auto`` means here.

    >>> environment().startswith("vlg_lib ")
    True
    """
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return (
        f"vlg_lib {vlg_lib.__version__} · Python {platform.python_version()}"
        f" · torch {torch.__version__} · {device} · profile"
        f" {get_profile().name}"
    )


def info() -> str:
    """Versions, the device, the cache folder, the models and the sizes of every
    profile, one a line.
    """
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    )
    return "\n".join(
        [
            f"vlg_lib {vlg_lib.__version__}, python"
            f" {platform.python_version()}, torch {torch.__version__}",
            f"device: {device}",
            f"MinkowskiEngine: {_minkowski()}",
            f"cache: {default_cache()}",
            f"2D models: {', '.join(list_models()) or 'none shipped'}",
            f"3D networks: {', '.join(list_checkpoints()) or 'none shipped'}",
            *(f"profile {profile}" for profile in PROFILES.values()),
        ]
    )


def models() -> str:
    """The 2D models and the 3D networks, with what each needs, one a line."""
    return "\n".join(
        [
            "2D models (--teacher):",
            *(
                f"  {name}: comes with the library; knows the book's made"
                " rooms only"
                for name in list_models()
            ),
            "  open_clip/MODEL/TAG/READOUT: a ViT of open_clip, such as"
            " open_clip/ViT-B-16-quickgelu/openai/naclip;",
            f"    read-outs: {', '.join(READOUTS)}; the weights are downloaded;"
            " SigLIP needs pip"
            " install 'vlg-lib[siglip]'",
            "  openseg: the published folder of OpenSeg, named by VLG_OPENSEG;"
            " needs pip install 'vlg-lib[openseg]'",
            "3D networks (--checkpoint):",
            *(_network(name) for name in list_checkpoints()),
            "  FILE.safetensors: of vlg label --train, vlg predict-scenes or"
            " vlg convert openscene-network",
        ]
    )


def _network(name: str) -> str:
    """A shipped network in a line: its classes, and whose words it knows."""
    network, about = load_checkpoint(name)
    settings = network.settings
    words = (
        f"any words of {about['teacher']}"
        if settings.output == "embeddings"
        else f"the {settings.channels} classes of {about['class_set']['name']}"
    )
    return (
        f"  {name}: comes with the library; {settings.architecture}, voxels of"
        f" {settings.voxel_size:g} m; {words}"
    )


def _minkowski() -> str:
    try:
        return version("MinkowskiEngine")
    except PackageNotFoundError:
        return (
            "not installed (not needed: the PyTorch engine gives the same"
            " numbers)"
        )
