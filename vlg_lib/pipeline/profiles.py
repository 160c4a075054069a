"""Profiles: the sizes of a run, composed of the settings of the rooms.

Every number that a run of the book may change stands in one of them.
"""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch

from vlg_lib.adapter import AdapterSettings
from vlg_lib.class_activation_maps import CamSettings
from vlg_lib.co_training import CoTrainingSettings
from vlg_lib.fusion import FusionSettings
from vlg_lib.geometry.visibility import PUBLISHED, Visibility
from vlg_lib.networks.point_network import NetworkSettings
from vlg_lib.pseudo_labels import PseudoLabelSettings
from vlg_lib.rooms.scenes import RoomsSettings
from vlg_lib.superpoints import SuperpointSettings
from vlg_lib.training.point_batches import TrainingSettings
from vlg_lib.vision_language.prompts import (
    SCENE,
    PromptSettings,
    TeacherSettings,
)


@dataclass(frozen=True)
class EvaluationSettings:
    """How 3D networks are asked, and how all methods are scored."""

    templates: tuple[str, ...] | None = None
    """The prompts that 3D networks are asked with; None: those that made the
    pseudo labels. The paper's release: ``a {name} in a scene``."""
    augmentations: int = 1
    """Turned copies of a cloud whose scores are averaged; from 1. The paper's
    release: 5."""
    convention: str = "present"
    """Which classes the mean IoU runs over, see :mod:`vlg_lib.metrics`:
    ``present``, ``scannet``, or ``openscene``, that of the paper's release."""


@dataclass(frozen=True)
class Profile:
    """The sizes of one run: the world, the frozen teacher, projection, and the
    trainings.

    >>> get_profile("fast").rooms.train
    8
    """

    name: str
    """What it is called on the command line and in what a run writes."""
    rooms: RoomsSettings = field(default_factory=RoomsSettings)
    """The made rooms; scenes of a folder have their own sizes."""
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    """The frozen 2D model."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    """The texts that stand for the classes."""
    visibility: Visibility = field(default_factory=Visibility)
    """When a frame sees a point."""
    fusion: FusionSettings = field(default_factory=FusionSettings)
    """How views are averaged."""
    pseudo_labels: PseudoLabelSettings = field(
        default_factory=PseudoLabelSettings
    )
    """How similarities become probabilities, in stages 1 and 2."""
    superpoints: SuperpointSettings = field(default_factory=SuperpointSettings)
    """How clouds are cut into pieces that vote; a row of the table."""
    co_training: CoTrainingSettings = field(default_factory=CoTrainingSettings)
    """How shapes give a second opinion on pseudo labels; a row of the
    evidence."""
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    """Stage 2."""
    network: NetworkSettings = field(
        default_factory=lambda: NetworkSettings(norm="instance")
    )
    """The 3D network. ``output`` and ``channels`` are set by the run, which
    knows the kind of network, the teacher and the classes."""
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            steps=150, batch_rooms=2, learning_rate=3e-3
        )
    )
    """How every 3D network but CAM learns."""
    cam: CamSettings = field(
        default_factory=lambda: CamSettings(
            TrainingSettings(steps=100, batch_rooms=4, learning_rate=3e-3)
        )
    )
    """The network that learns from tags alone."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How the table is made."""
    balance: bool = True
    """Whether 3D networks see points of rare (pseudo) classes more often and
    weigh them more. The paper's release: no."""
    checkpoint_every: int = 100
    """Steps between two stored states of a training; from 1."""

    def __str__(self) -> str:
        lines = [self.name]
        for part in fields(self):
            if part.name != "name":
                lines += _lines(part.name, getattr(self, part.name))
        return "\n".join(lines)


def _lines(name: str, value: Any) -> Iterator[str]:
    """A part of a profile as text: a line for it, and one for each part of its
    own.
    """
    if not is_dataclass(value):
        yield f"  {name}: {value}"
        return
    # Of the network, the run sets these.
    left_out = ("channels", "output") if name == "network" else ()
    entries = {
        entry.name: getattr(value, entry.name)
        for entry in fields(value)
        if entry.name not in left_out
    }
    plain = ", ".join(
        f"{key}={entry:g}" if isinstance(entry, float) else f"{key}={entry}"
        for key, entry in entries.items()
        if not is_dataclass(entry)
    )
    yield textwrap.fill(
        f"  {name}: {plain}", width=80, subsequent_indent="    "
    )
    for key, entry in entries.items():
        if is_dataclass(entry):
            yield from _lines(f"{name}.{key}", entry)


def _fast() -> Profile:
    """A run of minutes on two cores."""
    return Profile(
        "fast", adapter=AdapterSettings(steps=200, points_per_room=2000)
    )


def _book() -> Profile:
    """A run of hours on two cores: the recorded tables."""
    fast = Profile("book")
    return replace(
        fast,
        rooms=RoomsSettings(train=128, test=16, views=20),
        adapter=AdapterSettings(steps=1500),
        # chosen on seed 91 (results/recipe.json has what it is worth)
        training=TrainingSettings(
            steps=1400,
            batch_rooms=1,
            crop=None,
            learning_rate=2e-2,
            optimizer="muon",
            coarse=0.6,
        ),
        cam=_cam_steps(fast.cam, 4000),
    )


def _colab() -> Profile:
    """A run of an hour on a small GPU."""
    book = _book()
    return replace(
        book,
        name="colab",
        rooms=replace(book.rooms, train=100),
        network=replace(book.network, voxel_size=0.05),
        # that of the book is not tried on a GPU yet
        training=replace(Profile("fast").training, steps=5000),
        cam=_cam_steps(book.cam, 3000),
    )


def _full() -> Profile:
    """A run on a large GPU."""
    training = TrainingSettings(
        steps=20_000, batch_rooms=8, crop=5.0, learning_rate=2e-3
    )
    return Profile(
        "full",
        rooms=RoomsSettings(
            train=200, test=50, views=40, width=320, height=240
        ),
        adapter=AdapterSettings(steps=3000),
        network=NetworkSettings("MinkUNet18A", voxel_size=0.04),
        training=training,
        cam=CamSettings(replace(training, steps=10_000, batch_rooms=4)),
    )


def _cam_steps(cam: CamSettings, steps: int) -> CamSettings:
    return replace(cam, training=replace(cam.training, steps=steps))


def _published(name: str, train: int, test: int) -> Profile:
    """As published for ScanNet: Sec. 4.1 of the paper, and where it is silent
    its released settings (and OpenScene's, which they continue).

    ``train``, ``test``: how many scenes there are. Steps are epochs x scenes /
    batch. Frames are chosen by the converter (every 20th), so ``views`` is 0.
    """
    training = TrainingSettings(
        # release: a scene 5 times an epoch
        steps=100 * 5 * train // 8,
        batch_rooms=8,
        crop=None,
        learning_rate=1e-3,
        schedule="poly_decay",
        weight_decay=0.0,
        max_grad_norm=None,
    )
    return Profile(
        name,
        rooms=RoomsSettings(
            train, test, views=0, width=320, height=240, shift=0.0
        ),
        # release
        teacher=TeacherSettings("openseg"),
        prompts=PromptSettings(("{name}",)),
        # release: half a metre of slack at 2 m
        visibility=PUBLISHED,
        # release: a plain mean over views of the nearest cells, cross-entropy
        # without a temperature
        fusion=FusionSettings(normalize=False, sampling="nearest"),
        pseudo_labels=PseudoLabelSettings(temperature=1.0),
        # paper: batch 16, 80 epochs; the rate falls by 0.7 a quarter
        adapter=AdapterSettings(
            steps=80 * train // 16,
            batch_rooms=16,
            points_per_room=40_000,
            learning_rate=3e-3,
            weight_decay=4e-4,
        ),
        # paper
        network=NetworkSettings("MinkUNet18A", voxel_size=0.02, height=False),
        training=training,
        # ours: the paper's CAM is that of other methods
        cam=CamSettings(
            replace(training, steps=10_000, batch_rooms=4, crop=5.0)
        ),
        # release: the sum of five augmentations
        evaluation=EvaluationSettings((SCENE,), 5, "openscene"),
        balance=False,
        checkpoint_every=1000,
    )


def corrected(published: Profile) -> Profile:
    """The same budget with this book's corrections: ``paper-...-corrected``.

    Views of length one, read between cells, and a temperature (the logits are
    cosines), a strict test of visibility, rare classes weighed, one
    augmentation, and the mean IoU over the classes that are present.
    """
    ours = Visibility()
    return replace(
        published,
        name=f"{published.name}-corrected",
        fusion=FusionSettings(),
        pseudo_labels=PseudoLabelSettings(),
        visibility=replace(
            published.visibility, tolerance=ours.tolerance, slack=ours.slack
        ),
        balance=True,
        evaluation=replace(
            published.evaluation, augmentations=1, convention="present"
        ),
    )


_SCANNET = _published("paper-scannet", train=1201, test=312)
# 204 rooms of Areas 1-4 and 6 to learn from, the 68 of Area 5 to test on
_S3DIS = _published("paper-s3dis", train=204, test=68)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _fast(),
        _colab(),
        _book(),
        _full(),
        _SCANNET,
        corrected(_SCANNET),
        _S3DIS,
        corrected(_S3DIS),
    )
}
"""The profiles by name."""


def get_profile(name: str = "auto") -> Profile:
    """A profile by name. ``auto`` means the environment variable VLG_PROFILE,
    else colab on CUDA, else fast.

    Raises ValueError naming the known profiles for any other name.

    >>> get_profile("book").training.steps
    1400
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


def with_words(
    profile: Profile,
    teacher: str | None = None,
    templates: Sequence[str] | None = None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> Profile:
    """The profile with another teacher, other templates or synonyms; None
    leaves what it has.

    >>> fast = with_words(get_profile("fast"), templates=["the {name}"])
    >>> fast.prompts.templates
    ('the {name}',)
    """
    prompts = profile.prompts
    if templates is not None:
        prompts = replace(prompts, templates=tuple(templates))
    if synonyms is not None:
        words = {name: tuple(others) for name, others in synonyms.items()}
        prompts = replace(prompts, synonyms=words)
    if teacher is not None:
        profile = replace(profile, teacher=TeacherSettings(teacher))
    return replace(profile, prompts=prompts)
