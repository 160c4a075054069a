"""One coloured cloud in, a label for every point out: the trained 3D network at
work, without images or scene tags.

This is what the method was for (Sec. 3.4 of the paper): at inference there is a
scan and a network, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vlg_lib.artifacts import write_json
from vlg_lib.classes import (
    CLASS_SETS,
    IGNORE_LABEL,
    ClassSet,
    own_class_set,
    split_names,
)
from vlg_lib.data.point_clouds import (
    UNITS,
    CloudFile,
    metric_points,
    read_cloud,
    write_labelled,
)
from vlg_lib.geometry.upright import AXES
from vlg_lib.networks.point_network import PointNetwork
from vlg_lib.networks.tiling import Question, label_points
from vlg_lib.networks.zoo import list_checkpoints, load_checkpoint
from vlg_lib.superpoints import SoftVote, SuperpointSettings, superpoints
from vlg_lib.training.devices import choose_device
from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.prompts import class_embeddings
from vlg_lib.viz import save_page3d
from vlg_lib.viz.payload import count_labels

TEMPERATURES = {"embeddings": 0.05, "scores": 1.0}
"""What cosines and scores are divided by before the softmax, unless told
otherwise."""

_LARGEST = 254
"""Classes in a 3D page."""


@dataclass(frozen=True)
class PredictionSettings:
    """How a cloud is read, and how the network is asked. ValueError for a value
    that makes no sense.
    """

    units: str | None = None
    """One of UNITS; None: metres, unless the size of the cloud contradicts."""
    up: str = "z"
    """The axis of the file that points up, one of
    :data:`vlg_lib.geometry.upright.AXES`."""
    augmentations: int = 1
    """Turned copies of the cloud whose scores are averaged, see
    :func:`vlg_lib.networks.point_network.point_scores`."""
    temperature: float | None = None
    """What scores are divided by before the softmax; None: TEMPERATURES."""
    use_color: bool = True
    """Whether the network sees the colours; else all points are mid-grey."""
    superpoints: SuperpointSettings | None = None
    """How the cloud is cut into superpoints, whose points get one label by a
    soft vote (:func:`vlg_lib.superpoints.soft_vote`); None: no vote."""

    def __post_init__(self) -> None:
        if self.units is not None and self.units not in UNITS:
            raise ValueError(
                f"unknown units {self.units!r}; known: {', '.join(UNITS)}"
            )
        if self.up not in AXES:
            raise ValueError(
                f"unknown axis {self.up!r}; known: {', '.join(AXES)}"
            )
        if self.augmentations < 1:
            raise ValueError(
                "expected at least one copy of the cloud for augmentations,"
                f" found {self.augmentations}"
            )
        if self.temperature is not None and not (
            0 < self.temperature < float("inf")
        ):
            raise ValueError(
                f"the temperature must be above zero, found {self.temperature}"
            )


@dataclass(frozen=True)
class Prediction:
    """What :func:`predict` found, and what was done."""

    labels: Int64[Tensor, " N"]
    """Indices into ``class_set``; -1 for points that were left out."""
    scores: Float[Tensor, " N"]
    """The probability of the label, 0 to 1; 0 for points left out."""
    class_set: ClassSet
    """The classes that were chosen from."""
    summary: dict[str, Any]
    """What is written beside the points as JSON."""

    def __str__(self) -> str:
        summary, total = self.summary, len(self.labels)
        left_out = (
            ", ".join(
                f"{count} x {reason}"
                for reason, count in summary["skipped"].items()
            )
            or "none"
        )
        size = " x ".join(f"{side:.1f}" for side in summary["size_m"])
        lines = [
            f"{total} points, {size} m, left out: {left_out};"
            f" {summary['tiles']} x network"
        ]
        for name, count in sorted(
            summary["counts"].items(), key=lambda item: -item[1]
        ):
            lines.append(
                f"  {name:16} {count:9} {count / total:7.1%}   score"
                f" {summary['mean_scores'][name]:.2f}"
            )
        return "\n".join(
            [*lines, *(f"note: {note}" for note in summary["notes"])]
        )


@dataclass(frozen=True)
class Choice:
    """The classes to choose from, and how the network is asked for them."""

    class_set: ClassSet
    """The classes, with their colours."""
    texts: Float[Tensor, "K D"] | None
    """Their text embeddings, for a network of embeddings."""
    columns: list[int] | None
    """Their columns among the scores, for a network of scores."""


@dataclass(frozen=True)
class _Found:
    """What a network says of the M points of a cloud of N that it was shown."""

    points: Float[Tensor, "M 3"]
    usable: Bool[Tensor, " N"]
    labels: Int64[Tensor, " M"]
    scores: Float[Tensor, " M"]
    size: list[float]
    tiles: int
    superpoints: int | None
    notes: list[str]


def predict(
    cloud: Path,
    checkpoint: str | Path,
    classes: str | Sequence[str] | None,
    out: Path,
    settings: PredictionSettings = PredictionSettings(),
    *,
    device: str | None = None,
    progress: bool = True,
) -> Prediction:
    """Label every point of the PLY file ``cloud`` and write ``out`` (.ply), a
    3D page and a summary beside it.

    ``checkpoint``: a name of :func:`vlg_lib.networks.zoo.list_checkpoints` or a
    file. ``classes``: the words to choose from, as a list or with commas
    between; None takes those of the checkpoint. A network of embeddings takes
    any words that its text tower knows, one of scores only words that it was
    trained with. ``device``: see
    :func:`vlg_lib.training.devices.choose_device`.

    ``out`` has a row for each row of ``cloud``, with x y z as they came
    (:func:`vlg_lib.data.point_clouds.write_labelled`); the page, ``out`` with
    the ending .html, is in metres, z up; the summary ends in .json. Errors are
    ValueErrors that name what to do, and come before anything is written.
    """
    _check_out(cloud, out)
    chosen_device = choose_device(device)
    network, about = load_checkpoint(checkpoint)
    choice = choose_classes(network, about, classes, checkpoint)
    file = read_cloud(cloud, use_color=settings.use_color)
    found = _ask(
        network.to(chosen_device), file, cloud, choice, settings, progress
    )
    labels = torch.full((len(file),), IGNORE_LABEL)
    scores = torch.zeros(len(file))
    labels[found.usable], scores[found.usable] = found.labels, found.scores
    summary = (
        {"cloud": str(cloud)}
        | _summary_of_points(file, found, choice.class_set)
        | _summary_of_settings(settings, file, network, about)
        | {
            "checkpoint": str(checkpoint),
            "tiles": found.tiles,
            "superpoints": found.superpoints,
            "device": str(chosen_device),
            "notes": [
                *file.notes,
                *found.notes,
                *_trained_on(checkpoint),
            ],
        }
    )
    write_labelled(out, file.axes, labels, scores, choice.class_set)
    _write_page(out.with_suffix(".html"), cloud.name, found, choice.class_set)
    write_json(out.with_suffix(".json"), summary)
    return Prediction(labels, scores, choice.class_set, summary)


def _trained_on(checkpoint: str | Path) -> list[str]:
    """What to expect of a network that comes with the library."""
    if str(checkpoint) not in list_checkpoints():
        return []
    return [
        f"{checkpoint} has learnt from the book's made rooms only: on a real"
        " scan expect wrong labels, also where the score is high"
    ]


def _ask(
    network: PointNetwork,
    file: CloudFile,
    cloud: Path,
    choice: Choice,
    settings: PredictionSettings,
    progress: bool,
) -> _Found:
    """Bring the points to metres, z up, and ask the network for them."""
    try:
        points, usable, size, notes = metric_points(
            file, settings.units, settings.up, network.settings.voxel_size
        )
    except ValueError as error:
        raise ValueError(f"{cloud}: {error}") from error
    colors, votes, pieces = file.colors[usable], None, None
    if settings.superpoints is not None:
        regions = superpoints(
            points, colors, settings.superpoints, progress=progress
        )
        votes = SoftVote(regions, len(choice.class_set))
        pieces = int(regions.max()) + 1
    labels, scores, tiles = label_points(
        network,
        points,
        colors,
        Question(
            choice.texts,
            choice.columns,
            _temperature(settings, network),
            settings.augmentations,
        ),
        progress=progress,
        listener=None if votes is None else votes.add,
    )
    if votes is not None:
        labels, scores = votes.result()
    return _Found(points, usable, labels, scores, size, tiles, pieces, notes)


def _temperature(settings: PredictionSettings, network: PointNetwork) -> float:
    return settings.temperature or TEMPERATURES[network.settings.output]


def _summary_of_points(
    file: CloudFile, found: _Found, class_set: ClassSet
) -> dict[str, Any]:
    """How many points there are of what, and how sure the network is."""
    counts = count_labels(found.labels, class_set)
    sums = torch.bincount(found.labels, found.scores.double())
    means = {
        name: float(sums[class_set.index(name)]) / count
        for name, count in counts.items()
    }
    far = int((file.usable & ~found.usable).sum())
    return {
        "points": len(file),
        "labelled": len(found.points),
        "skipped": file.skipped | ({"far from the rest": far} if far else {}),
        "classes": list(class_set.names),
        "counts": counts,
        "mean_scores": {name: round(mean, 4) for name, mean in means.items()},
        "size_m": [round(side, 3) for side in found.size],
    }


def _summary_of_settings(
    settings: PredictionSettings,
    file: CloudFile,
    network: PointNetwork,
    about: dict[str, Any],
) -> dict[str, Any]:
    """What the cloud was taken for, and what the network is."""
    return {
        "units": settings.units or "m",
        "units_given": settings.units is not None,
        "up": settings.up,
        "colors": file.color_scale,
        "augmentations": settings.augmentations,
        "temperature": _temperature(settings, network),
        "output": network.settings.output,
        "teacher": about.get("teacher"),
        "prompt_template": _template(about),
        "voxel_size": network.settings.voxel_size,
    }


def _write_page(
    path: Path, name: str, found: _Found, class_set: ClassSet
) -> None:
    """The labelled points as a 3D page."""
    total = len(found.points)
    shares = ", ".join(
        f"{word} {count / total:.0%}"
        for word, count in count_labels(found.labels, class_set).items()
    )
    save_page3d(
        path,
        found.points,
        found.labels,
        class_set,
        f"{name}: predicted classes",
        alt=(
            f"{total} points of {name} in the colours of their predicted"
            f" classes: {shares}."
        ),
    )


def choose_classes(
    network: PointNetwork,
    about: dict[str, Any],
    words: str | Sequence[str] | None,
    name: str | Path,
) -> Choice:
    """The classes to choose from, and how the network is asked for them.

    ``about``: what the checkpoint ``name`` says of itself. ValueError where a
    word is unknown to the text tower, or to a network of scores, and where the
    checkpoint does not say what it needs to.
    """
    trained_with = about.get("class_set") or {}
    known = tuple(trained_with.get("names") or ())
    if network.settings.output == "scores":
        _check_scores(network, known, name)
    chosen = _split(words) or known
    if not 0 < len(chosen) <= _LARGEST:
        raise ValueError(
            f"{name}: expected 1 to {_LARGEST} classes, found {len(chosen)}:"
            " name some"
        )
    whole = _own_classes(known or chosen, trained_with.get("palette"), name)
    class_set = (
        whole if chosen == whole.names else own_class_set(chosen, like=whole)
    )
    if network.settings.output == "scores":
        return Choice(class_set, None, _columns(chosen, known, name))
    return Choice(class_set, _texts(class_set, about, name), None)


def _split(words: str | Sequence[str] | None) -> tuple[str, ...]:
    """The words that were typed, none where None was; ValueError where one of
    them is empty.
    """
    if words is None:
        return ()
    words = split_names(words) if isinstance(words, str) else words
    if not (words and all(word.strip() for word in words)):
        raise ValueError(
            f"expected words with commas between, found {words}; leave them out"
            " for the checkpoint's own"
        )
    return tuple(word.strip() for word in words)


def _check_scores(
    network: PointNetwork, known: tuple[str, ...], name: str | Path
) -> None:
    if len(known) != network.settings.channels:
        raise ValueError(
            f"{name}: {network.settings.channels} scores a point and the names"
            f" of {len(known)}"
        )


def _columns(
    chosen: tuple[str, ...], known: tuple[str, ...], name: str | Path
) -> list[int]:
    """Where the words stand among the scores of a network."""
    unknown = [word for word in chosen if word not in known]
    if unknown:
        raise ValueError(
            f"{name}: this network scores a fixed set of classes, and"
            f" {unknown[0]!r} is none of them; known: {', '.join(known)};"
            " for words of your own take a network of embeddings"
        )
    return [known.index(word) for word in chosen]


def _texts(
    class_set: ClassSet, about: dict[str, Any], name: str | Path
) -> Float[Tensor, "K D"]:
    """The text embeddings of the classes, from the tower that belongs to the
    network.
    """
    if not about.get("teacher"):
        raise ValueError(
            f"{name}: the checkpoint does not name the model whose text tower"
            " it needs ('teacher')"
        )
    teacher = create_model(about["teacher"])
    return class_embeddings(teacher, class_set.names, _template(about))


def _own_classes(
    names: tuple[str, ...], palette: object, name: str | Path
) -> ClassSet:
    """The classes of a checkpoint, in the colours that they have in every
    figure: a known set, or one whose ``palette`` the checkpoint may hold.
    """
    for known in CLASS_SETS.values():
        if known.names == names:
            return known
    if palette is None:
        return own_class_set(names)
    try:
        colors = torch.tensor(palette)
    except (TypeError, ValueError, RuntimeError):
        colors = torch.zeros(0)
    if (
        colors.shape != (len(names), 3)
        or colors.is_floating_point()
        or not bool(((colors >= 0) & (colors <= 255)).all())
    ):
        raise ValueError(
            f"{name}: expected a palette of three whole numbers from 0 to 255"
            f" for each of its {len(names)} classes, found {palette!r:.80}"
        )
    return ClassSet("own", names, tuple(map(tuple, colors.tolist())))


def _template(about: dict[str, Any]) -> str:
    return about.get("prompt_template") or "a {name}"


def _check_out(cloud: Path, out: Path) -> None:
    """ValueError where the result cannot be written, or not there."""
    if out.suffix.lower() != ".ply" or out.is_dir():
        raise ValueError(f"{out}: expected the name of a .ply file to write")
    if out.resolve() == cloud.resolve():
        raise ValueError(f"{out}: is the input; give the result another name")
    existing = next(
        (folder for folder in out.resolve().parents if folder.exists()), None
    )
    if existing is not None and not existing.is_dir():
        raise ValueError(f"{out}: {existing} is a file, not a folder")
