"""Pack predictions for the ScanNet benchmark server: one text file a scene, one
NYU40 id a line, in one zip.

PREDICTIONS holds SCENE.ply, coloured points with a whole-number property
``label`` (an index into the twenty classes, in the order of the scene's points,
-1 where nothing was predicted), such as ``python -m vlg_lib predict`` writes.
SCENES holds the converted scenes, which say how many points a scene has. Points
without a label get id 0, which scores as wrong, and are reported.

    python data_scripts/export_scannet.py predictions scannet/test submission.zip --split scannetv2_test.txt
"""

import zipfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from vlg_lib.artifacts import atomic_write
from vlg_lib.classes import IGNORE_LABEL, SCANNET_20
from vlg_lib.convert.batch import chosen, one_line_errors
from vlg_lib.convert.scannet_labels import NYU40_IDS, to_nyu40
from vlg_lib.data.layout import LayoutError, read_manifest, scene_folders
from vlg_lib.data.ply import read_points


def scene_ids(prediction: Path, scene: Path) -> torch.Tensor:
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
    return to_nyu40(labels)


def export(
    predictions: Path, scenes: Path, names: list[str], archive: Path
) -> dict[str, int]:
    """Write the archive, whole or not at all, and check it; the number of
    points without a label, by scene.
    """
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
    check(
        archive,
        {name: int(read_manifest(scenes / name)["points"]) for name in names},
    )
    return unlabelled


def check(archive: Path, points: dict[str, int]) -> None:
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


def main(
    predictions: Annotated[
        Path, typer.Argument(help="Folder of SCENE.ply with a property label.")
    ],
    scenes: Annotated[
        Path, typer.Argument(help="Folder of the converted scenes.")
    ],
    archive: Annotated[Path, typer.Argument(help="The zip to write.")],
    split: Annotated[
        Path | None,
        typer.Option(
            help="File of scenes, one a line; all converted ones without."
        ),
    ] = None,
) -> None:
    """Pack predictions for the ScanNet benchmark server."""
    with one_line_errors():
        names = chosen(
            [folder.name for folder in scene_folders(scenes)], split=split
        )
        unlabelled = export(predictions, scenes, names, archive)
    typer.echo(
        f"{archive}: {len(names)} scenes, checked; {sum(unlabelled.values())}"
        " points without a label"
    )


if __name__ == "__main__":
    typer.run(main)
