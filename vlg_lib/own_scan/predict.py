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
from jaxtyping import Float, Int64
from torch import Tensor

from vlg_lib.artifacts import write_json
from vlg_lib.classes import CLASS_SETS, IGNORE_LABEL, ClassSet, own_class_set
from vlg_lib.data.point_clouds import (
    UNITS,
    UP_AXES,
    metric_points,
    read_cloud,
    write_labelled,
)
from vlg_lib.networks.point_network import PointNetwork
from vlg_lib.networks.tiling import label_points
from vlg_lib.networks.zoo import load_checkpoint
from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.prompts import class_embeddings
from vlg_lib.viz import save_page3d
from vlg_lib.viz.payload import count_labels

TEMPERATURES = {"embeddings": 0.05, "scores": 1.0}
"""What cosines and scores are divided by before the softmax, unless told
otherwise."""


_LARGEST = 254  # classes in a 3D page


@dataclass(frozen=True)
class Prediction:
    """Labels (N,) int64, -1 for points left out; scores (N,) float32, the
    probability of the label; what was done.
    """

    labels: Int64[Tensor, " N"]
    scores: Float[Tensor, " N"]
    class_set: ClassSet
    summary: dict[str, Any]

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


def predict(
    cloud: Path,
    checkpoint: str | Path,
    classes: str | Sequence[str] | None,
    out: Path,
    *,
    units: str | None = None,
    up: str = "z",
    augmentations: int = 1,
    temperature: float | None = None,
    use_color: bool = True,
    device: str | None = None,
    progress: bool = True,
) -> Prediction:
    """Label every point of the PLY file ``cloud`` and write ``out`` (.ply), a
    3D page and a summary beside it.

    ``checkpoint``: a name of :func:`vlg_lib.networks.zoo.list_checkpoints` or a
    file. ``classes``: the words to choose from, as a list or with commas
    between; None takes those of the checkpoint. A network of embeddings takes
    any words that its text tower knows, one of scores only words that it was
    trained with. ``units``: one of UNITS, or None for metres unless the size of
    the cloud contradicts. ``up``: one of UP_AXES. ``augmentations``: see
    :func:`vlg_lib.networks.point_network.point_scores`. ``temperature``: see
    TEMPERATURES. ``device``: None takes CUDA where there is one.

    ``out`` has a row for each row of ``cloud``, with x y z as they came
    (:func:`vlg_lib.data.point_clouds.write_labelled`); the page, ``out`` with
    the ending .html, is in metres, z up; the summary ends in .json. Errors are
    ValueErrors that name what to do, and come before anything is written.
    """
    _check_options(cloud, out, units, up, augmentations, temperature)
    chosen_device = _device(device)
    network, about = load_checkpoint(checkpoint)
    class_set, texts, columns = choose_classes(
        network, about, classes, checkpoint
    )
    file = read_cloud(cloud, use_color=use_color)
    try:
        points, usable, size, notes = metric_points(
            file, units, up, network.settings.voxel_size
        )
    except ValueError as error:
        raise ValueError(f"{cloud}: {error}") from error
    temperature = temperature or TEMPERATURES[network.settings.output]
    found, confidence, tiles = label_points(
        network.to(chosen_device),
        points,
        file.colors[usable],
        texts,
        columns,
        temperature,
        augmentations,
        progress,
    )
    labels = torch.full((len(file),), IGNORE_LABEL)
    scores = torch.zeros(len(file))
    labels[usable], scores[usable] = found, confidence
    far = int((file.usable & ~usable).sum())
    counts = count_labels(found, class_set)
    means = {
        name: float(confidence[found == class_set.index(name)].double().mean())
        for name in counts
    }
    summary: dict[str, Any] = {
        "cloud": str(cloud),
        "points": len(file),
        "labelled": len(points),
        "skipped": file.skipped | ({"far from the rest": far} if far else {}),
        "classes": list(class_set.names),
        "counts": counts,
        "mean_scores": {name: round(mean, 4) for name, mean in means.items()},
        "units": units or "m",
        "units_given": units is not None,
        "up": up,
        "size_m": [round(side, 3) for side in size],
        "colors": file.color_scale,
        "checkpoint": str(checkpoint),
        "output": network.settings.output,
        "teacher": about.get("teacher"),
        "prompt_template": _template(about),
        "voxel_size": network.settings.voxel_size,
        "augmentations": augmentations,
        "temperature": temperature,
        "tiles": tiles,
        "device": str(chosen_device),
        "notes": file.notes + notes,
    }
    write_labelled(out, file.axes, labels, scores, class_set)
    shares = ", ".join(
        f"{name} {count / len(points):.0%}" for name, count in counts.items()
    )
    alt = (
        f"{len(points)} points of {cloud.name} in the colours of their"
        f" predicted classes: {shares}."
    )
    save_page3d(
        out.with_suffix(".html"),
        points,
        found,
        class_set,
        f"{cloud.name}: predicted classes",
        alt=alt,
    )
    write_json(out.with_suffix(".json"), summary)
    return Prediction(labels, scores, class_set, summary)


def choose_classes(
    network: PointNetwork,
    about: dict[str, Any],
    words: str | Sequence[str] | None,
    name: str | Path,
) -> tuple[ClassSet, Float[Tensor, "K D"] | None, list[int] | None]:
    """The classes to choose from, and their text embeddings or their columns
    among the network's scores.

    ``about``: what the checkpoint ``name`` says of itself. ValueError where a
    word is unknown to the text tower, or to a network of scores, and where the
    checkpoint does not say what it needs to.
    """
    known = tuple((about.get("class_set") or {}).get("names") or ())
    words = words.split(",") if isinstance(words, str) else words
    if words is not None and not (
        words and all(word.strip() for word in words)
    ):
        raise ValueError(
            f"expected words with commas between, found {words}; leave them out"
            " for the checkpoint's own"
        )
    if (
        network.settings.output == "scores"
        and len(known) != network.settings.channels
    ):
        raise ValueError(
            f"{name}: {network.settings.channels} scores a point and the names"
            f" of {len(known)}"
        )
    chosen = tuple(word.strip() for word in words or known)
    if not 0 < len(chosen) <= _LARGEST:
        raise ValueError(
            f"{name}: expected 1 to {_LARGEST} classes, found {len(chosen)}:"
            " name some"
        )
    class_set = _class_set(chosen, known)
    if network.settings.output == "scores":
        unknown = [word for word in chosen if word not in known]
        if unknown:
            raise ValueError(
                f"{name}: this network scores a fixed set of classes, and"
                f" {unknown[0]!r} is none of them; known: {', '.join(known)};"
                " for words of your own take a network of embeddings"
            )
        return class_set, None, [known.index(word) for word in chosen]
    if not about.get("teacher"):
        raise ValueError(
            f"{name}: the checkpoint does not name the model whose text tower"
            " it needs ('teacher')"
        )
    return (
        class_set,
        class_embeddings(
            create_model(about["teacher"]), class_set.names, _template(about)
        ),
        None,
    )


def _class_set(names: tuple[str, ...], own: tuple[str, ...]) -> ClassSet:
    """The names with the colours that they have in every figure, where they are
    of the checkpoint's classes.
    """
    whole = next(
        (known for known in CLASS_SETS.values() if known.names == own), None
    ) or own_class_set(own or names)
    if names == whole.names:
        return whole
    if set(names) <= set(whole.names):
        return ClassSet(
            "own",
            names,
            tuple(whole.palette[whole.index(name)] for name in names),
        )
    return own_class_set(names)


def _template(about: dict[str, Any]) -> str:
    return about.get("prompt_template") or "a {name}"


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(
            name or ("cuda" if torch.cuda.is_available() else "cpu")
        )
    except RuntimeError as error:
        raise ValueError(
            f"unknown device {name!r}; known: cpu, cuda, cuda:1 ..."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device {name!r} is not supported; known: cpu, cuda, cuda:1 ..."
        )
    if (
        device.type == "cuda"
        and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ValueError(
            f"device {name!r} is not here: {torch.cuda.device_count()} CUDA"
            " devices; take cpu"
        )
    return device


def _check_options(
    cloud: Path,
    out: Path,
    units: str | None,
    up: str,
    augmentations: int,
    temperature: float | None,
) -> None:
    if units is not None and units not in UNITS:
        raise ValueError(f"unknown units {units!r}; known: {', '.join(UNITS)}")
    if up not in UP_AXES:
        raise ValueError(f"unknown axis {up!r}; known: {', '.join(UP_AXES)}")
    if augmentations < 1:
        raise ValueError(f"expected at least one pass, found {augmentations}")
    if temperature is not None and not 0 < temperature < float("inf"):
        raise ValueError(
            f"the temperature must be above zero, found {temperature}"
        )
    if out.suffix.lower() != ".ply" or out.is_dir():
        raise ValueError(f"{out}: expected the name of a .ply file to write")
    if out.resolve() == cloud.resolve():
        raise ValueError(f"{out}: is the input; give the result another name")
    existing = next(
        (folder for folder in out.resolve().parents if folder.exists()), None
    )
    if existing is not None and not existing.is_dir():
        raise ValueError(f"{out}: {existing} is a file, not a folder")
