"""Sizes: every number that a run of the book may change stands here, one frozen
dataclass a profile.
"""

import os
import textwrap
from dataclasses import asdict, dataclass, replace

import torch


@dataclass(frozen=True)
class Profile:
    """The sizes of one run: the world, the frozen teacher, projection, and the
    trainings.

    ``shift`` is the share of object colours that the teacher never saw (0 to
    1). ``depth_tolerance`` is relative to the depth and ``depth_slack`` is
    absolute, in metres: a point is visible where ``|d - Z| <= depth_slack +
    depth_tolerance * d``. ``network_*`` and ``cam_*``: the 3D networks;
    ``cam_*`` is the network that learns from tags alone, on crops that inherit
    the tags of their room (None: on whole rooms). ``voxel_size`` and ``*_crop``
    are in metres. ``balance``: whether 3D networks see points of rare (pseudo)
    classes more often and weigh them more. ``prompt_template``: one template,
    several with ``|`` between them, or ``imagenet`` for CLIP's 80;
    ``synonyms``: further names of classes, as in ``sofa = couch, settee``; all
    are averaged (:mod:`vlg_lib.vision_language.prompts`). ``normalize_views``:
    whether views vote with vectors of length one. ``evaluation_template``: the
    prompt that 3D networks are asked with, where it is another than the one
    that made the pseudo labels. ``augmentations``: turned copies of a cloud
    whose scores are averaged. ``convention``: of the mean IoU, see
    :mod:`vlg_lib.metrics`. ``checkpoint_every``: steps between two stored
    states of a training.
    """

    name: str
    train_rooms: int
    test_rooms: int
    views: int
    width: int
    height: int
    shift: float = 0.5
    teacher: str = "small-attributes"
    prompt_template: str = "a {name}"
    synonyms: str = ""
    depth_tolerance: float = 0.01
    depth_slack: float = 0.05
    image_border: int = 0
    normalize_views: bool = True
    temperature: float = 0.05
    evaluation_template: str | None = None
    adapter: str = "affine"
    adapter_steps: int = 400
    adapter_batch_rooms: int = 4
    adapter_points_per_room: int = 10_000
    adapter_learning_rate: float = 3e-3
    adapter_weight_decay: float = 4e-4
    network: str = "MinkUNetSmall"
    network_norm: str = "instance"
    network_steps: int = 150
    network_batch_rooms: int = 2
    network_crop: float | None = 2.6
    network_height: bool = True
    network_learning_rate: float = 3e-3
    network_schedule: str = "one_cycle"
    network_weight_decay: float = 1e-4
    network_clip: float | None = 5.0
    voxel_size: float = 0.08
    balance: bool = True
    cam_steps: int = 100
    cam_norm: str = "batch"
    cam_crop: float | None = 2.6
    cam_batch_rooms: int = 4
    cam_pooling: str = "log-sum-exp"
    cam_cells: int | None = None
    augmentations: int = 1
    convention: str = "present"
    checkpoint_every: int = 100

    def __str__(self) -> str:
        return textwrap.fill(
            ", ".join(
                f"{name}={value}" for name, value in asdict(self).items()
            ),
            width=80,
        )


_SMALL = Profile(
    "book",
    train_rooms=128,
    test_rooms=16,
    views=20,
    width=160,
    height=120,
    adapter_steps=1500,
)

_FULL = Profile(
    "full",
    train_rooms=200,
    test_rooms=50,
    views=40,
    width=320,
    height=240,
    adapter_steps=3000,
    cam_steps=10_000,
    cam_crop=5.0,
    network="MinkUNet18A",
    network_norm="batch",
    voxel_size=0.04,
    network_steps=20_000,
    network_batch_rooms=8,
    network_crop=5.0,
    network_learning_rate=2e-3,
)

# As published for ScanNet: Sec. 4.1 of the paper, and where it is silent its
# released settings (and OpenScene's, which they continue). Steps are epochs x
# scenes / batch. Frames are chosen by the converter (every 20th).
_SCANNET = Profile(
    "paper-scannet",
    train_rooms=1201,
    test_rooms=312,
    views=0,
    width=320,
    height=240,
    shift=0.0,
    # release
    teacher="openseg",
    prompt_template="{name}",
    evaluation_template="a {name} in a scene",
    # release: half a metre of slack at 2 m
    depth_tolerance=0.25,
    depth_slack=0.0,
    image_border=10,
    # release: a plain mean over views, cross-entropy without a temperature
    normalize_views=False,
    temperature=1.0,
    # paper: batch 16, 80 epochs
    adapter_steps=80 * 1201 // 16,
    adapter_batch_rooms=16,
    adapter_points_per_room=40_000,
    # paper; the rate falls by 0.7 a quarter
    adapter_learning_rate=3e-3,
    adapter_weight_decay=4e-4,
    # paper
    network="MinkUNet18A",
    network_norm="batch",
    network_height=False,
    voxel_size=0.02,
    # release: a scene 5 times an epoch
    network_steps=100 * 5 * 1201 // 8,
    network_batch_rooms=8,
    network_crop=None,
    network_learning_rate=1e-3,
    network_schedule="poly_decay",
    network_weight_decay=0.0,
    network_clip=None,
    # release: the sum of five passes
    balance=False,
    augmentations=5,
    convention="openscene",
    # ours: the paper's CAM is that of other methods
    cam_steps=10_000,
    cam_crop=5.0,
    checkpoint_every=1000,
)

# S3DIS: 204 rooms of Areas 1-4 and 6 to learn from, the 68 of Area 5 to test
# on; everything else as for ScanNet.
_S3DIS = replace(
    _SCANNET,
    name="paper-s3dis",
    train_rooms=204,
    test_rooms=68,
    adapter_steps=80 * 204 // 16,
    network_steps=100 * 5 * 204 // 8,
)


def corrected(published: Profile) -> Profile:
    """The same budget with this book's corrections: ``paper-...-corrected``.

    Views of length one and a temperature (the logits are cosines), a strict
    test of visibility, rare classes weighed, one pass, and the mean IoU over
    the classes that are present.
    """
    return replace(
        published,
        name=f"{published.name}-corrected",
        normalize_views=True,
        temperature=0.05,
        depth_tolerance=0.01,
        depth_slack=0.05,
        balance=True,
        augmentations=1,
        convention="present",
    )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "fast",
            8,
            4,
            views=12,
            width=160,
            height=120,
            adapter_steps=200,
            adapter_points_per_room=2000,
        ),
        replace(
            _SMALL,
            name="colab",
            train_rooms=100,
            network_steps=5000,
            cam_steps=3000,
            voxel_size=0.05,
        ),
        replace(_SMALL, network_steps=7000, cam_steps=4000),
        _FULL,
        *(
            profile
            for published in (_SCANNET, _S3DIS)
            for profile in (published, corrected(published))
        ),
    )
}


def get_profile(name: str = "auto") -> Profile:
    """A profile by name. ``auto`` means the environment variable VLG_PROFILE,
    else colab on CUDA, else fast.

    Raises ValueError naming the known profiles for any other name.
    """
    if name == "auto":
        name = os.environ.get("VLG_PROFILE") or (
            "colab" if torch.cuda.is_available() else "fast"
        )
    if name not in PROFILES:
        raise ValueError(
            f"unknown profile {name!r}; known: auto, {', '.join(PROFILES)}"
        )
    return PROFILES[name]
