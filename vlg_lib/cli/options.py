"""The options that several commands share: one spelling and one explanation
each.

The lists of names are written out here, so that help needs no torch; the tests
compare them with the library's.
"""

from pathlib import Path
from typing import Annotated

import typer

PROFILES = (
    "fast",
    "colab",
    "book",
    "full",
    "paper-scannet",
    "paper-scannet-corrected",
    "paper-s3dis",
    "paper-s3dis-corrected",
)
"""The names in :mod:`vlg_lib.pipeline.profiles`."""

CHECKPOINTS = (
    "3dss-vlg",
    "3dss-vlg-scans",
    "cam",
    "openscene",
    "supervised",
    "supervised-scans",
)
"""The networks that come with the library, :mod:`vlg_lib.networks.zoo`."""

NETWORKS = ("cam", "openscene", "cross-entropy", "3dss-vlg", "supervised")
"""The networks that a run trains, :mod:`vlg_lib.pipeline.networks`."""

EXPERIMENTS = ("main", "grounded", "length")
"""The recorded experiments, :mod:`vlg_lib.pipeline.experiments`."""

UNITS = ("m", "cm", "mm")
"""The units of :mod:`vlg_lib.data.point_clouds`."""

UP_AXES = ("x", "y", "z", "-x", "-y", "-z")
"""The axes of :mod:`vlg_lib.geometry.upright`."""

CLASS_SETS = ("rooms-12", "scannet-20", "s3dis-13")
"""The class sets of :mod:`vlg_lib.classes`."""

SOURCES = ("scannet", "s3dis", "rooms", "own")
"""The data sets of :mod:`vlg_lib.plan`."""


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text with commas between, none of an empty text;
    ValueError where one of them is empty.

    >>> split_words("wall, shower curtain")
    ('wall', 'shower curtain')
    """
    from vlg_lib.classes import split_names

    words = split_names(text)
    if not text.strip():
        return ()
    if not all(words):
        raise ValueError(
            f"expected words with commas between, one is empty in {text!r}"
        )
    return words


def check_device(name: str | None) -> str | None:
    """Refuse a device that is not there, with the words of
    :func:`vlg_lib.training.devices.choose_device`, before anything is read.
    """
    if name is not None:
        from vlg_lib.training.devices import choose_device

        choose_device(name)
    return name


SceneFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="Scene folder in the library's layout."
    ),
]
OutFolder = Annotated[
    Path, typer.Option("--out", help="Folder for what is written.")
]
Tags = Annotated[
    str,
    typer.Option(
        help="Classes in the scene, with commas between [those of scene.json]."
    ),
]
Teacher = Annotated[
    str | None, typer.Option(help="2D model, see vlg models [the profile's].")
]
Prompts = Annotated[
    str | None,
    typer.Option(
        help=(
            "Templates: 'a {name} | a photo of a {name}', or imagenet for"
            " CLIP's 80 [the profile's]."
        )
    ),
]
Synonyms = Annotated[
    str,
    typer.Option(
        help="More names of classes: 'sofa = couch, settee; bin = basket'."
    ),
]
ProfileName = Annotated[
    str, typer.Option(help=f"Sizes: auto, {', '.join(PROFILES)}.")
]
Seed = Annotated[
    int,
    typer.Option(
        help="Whole number from 0; makes the rooms and the adapter's start."
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder of kept artefacts [VLG_CACHE or ~/.cache/vlg_lib]."
    ),
]
Fused = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Folder of fused embeddings, one file a scene [made from the"
            " images]."
        )
    ),
]
Vote = Annotated[
    bool,
    typer.Option(
        "--vote",
        help=(
            "Give all points of a superpoint, a piece of one surface and one"
            " colour, one label: the class with the highest mean probability."
            " Rooms made of boxes favour it; expect less of real ones."
        ),
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1 [CUDA where there is one].",
        callback=check_device,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Split = Annotated[
    Path | None, typer.Option(help="File of scenes, one a line [all].")
]
