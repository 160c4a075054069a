r"""Pack predictions for the ScanNet benchmark server: one text file a scene,
one NYU40 id a line, in one zip.

The folder of predictions holds SCENE.ply, coloured points with a whole-number
property ``label`` (an index into the twenty classes, in the order of the
scene's points, -1 where nothing was predicted), such as ``vlg predict`` writes.
The converted scenes say how many points a scene has. Points without a label get
id 0, which scores as wrong, and are reported.

::

    vlg export-scannet predictions --scenes scannet/test \
        --out submission.zip --split scannetv2_test.txt
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from vlg_lib.artifacts import atomic_write
from vlg_lib.classes import IGNORE_LABEL, SCANNET_20
from vlg_lib.convert.batch import chosen
from vlg_lib.convert.scannet_labels import NYU40_IDS, to_nyu40
from vlg_lib.data.layout import LayoutError, read_manifest, scene_folders
from vlg_lib.data.ply import read_label_names, read_points


@dataclass(frozen=True)
class Submission:
    """What was packed; printed, it is one line."""

    archive: Path
    """The zip, written and checked."""
    unlabelled: Mapping[str, int]
    """The number of points without a label, by scene."""

    @property
    def failed(self) -> dict[str, str]:
        """Always empty: a prediction that does not fit is an error."""
        return {}

    def __str__(self) -> str:
        return (
            f"{self.archive}: {len(self.unlabelled)} scenes, checked;"
            f" {sum(self.unlabelled.values())} points without a label"
        )


def scene_ids(prediction: Path, scene: Path) -> Int[Tensor, " N"]:
    """The NYU40 ids (N,) of a prediction; LayoutError where it does not fit its
    scene or its class set.
    """
    manifest = read_manifest(scene)
    if manifest["class_set"] != SCANNET_20.name:
        raise LayoutError(
            f"{scene}: expected the classes of {SCANNET_20.name}, found"
            f" {manifest['class_set']!r}"
        )
    _, _, extra = read_points(prediction)
    labels = extra.get("label", torch.zeros(0))
    if len(labels) != manifest["points"] or labels.is_floating_point():
        raise LayoutError(
            f"{prediction}: expected a label for each of the"
            f" {manifest['points']} points of {scene.name}"
        )
    if int(labels.min()) < IGNORE_LABEL or int(labels.max()) >= len(SCANNET_20):
        raise LayoutError(
            f"{prediction}: expected labels from -1 to {len(SCANNET_20) - 1},"
            f" found {labels.unique()}"
        )
    _check_names(prediction, labels)
    return to_nyu40(labels)


def _check_names(prediction: Path, labels: Int[Tensor, " N"]) -> None:
    """LayoutError where the file says that its labels are of other classes."""
    named = read_label_names(prediction)
    for label in labels.unique().tolist():
        expected = SCANNET_20.names[label] if label >= 0 else None
        found = named.get(label, expected)
        if label >= 0 and found != expected:
            raise LayoutError(
                f"{prediction}: expected label {label} to be {expected!r}, as"
                f" in {SCANNET_20.name}, but the file names it {found!r}: label"
                " the scene with these twenty classes (vlg predict --classes,"
                " or vlg predict-scenes with a network of ScanNet)"
            )


def export_submission(
    predictions: Path, scenes: Path, archive: Path, split: Path | None = None
) -> Submission:
    """Write the archive, whole or not at all, and check it.

    ``predictions``: folder of SCENE.ply. ``scenes``: folder of the converted
    scenes. ``split``: file of scenes, one a line; all converted ones without.
    ValueError (LayoutError) where a prediction is missing or does not fit.
    """
    folders = scene_folders(scenes)
    names = chosen([folder.name for folder in folders], split=split)
    unlabelled: dict[str, int] = {}
    with (
        atomic_write(archive) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in names:
            ids = scene_ids(predictions / f"{name}.ply", scenes / name)
            packed.writestr(
                f"{name}.txt", "".join(f"{number}\n" for number in ids.tolist())
            )
            unlabelled[name] = int((ids == 0).sum())
    check_archive(
        archive,
        {name: int(read_manifest(scenes / name)["points"]) for name in names},
    )
    return Submission(archive, unlabelled)


def check_archive(archive: Path, points: Mapping[str, int]) -> None:
    """Check an archive as the server would: one file a scene at its root, an
    NYU40 id of the benchmark (or 0) a line.

    ``points``: points of each scene. ValueError naming the file of the archive
    that is wrong.
    """
    allowed = {str(number).encode() for number in (0, *NYU40_IDS)}
    try:
        with zipfile.ZipFile(archive) as packed:
            found = {
                info.filename: info.file_size for info in packed.infolist()
            }
            if set(found) != {f"{name}.txt" for name in points}:
                wrong = sorted(set(found) ^ {f"{name}.txt" for name in points})
                raise ValueError(
                    f"{archive}: expected one file a scene at the root, wrong"
                    f" or missing: {wrong[:3]}"
                )
            for name, count in points.items():
                # Three bytes a line at most: an archive that would unpack to
                # more is refused before it is unpacked.
                lines = (
                    packed.read(f"{name}.txt").split()
                    if found[f"{name}.txt"] <= 4 * count
                    else []
                )
                if len(lines) != count or not allowed.issuperset(lines):
                    raise ValueError(
                        f"{archive}: {name}.txt: expected {count} lines, each"
                        " an NYU40 id or 0"
                    )
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise ValueError(
            f"{archive}: not a whole zip archive ({error})"
        ) from error
