"""The 3D network of a run at work on other scenes: one PLY a scene, and the
network as a file.
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from vlg_lib.data.layout import read_scene
from vlg_lib.data.ply import label_comments, write_points
from vlg_lib.networks.point_network import save_network
from vlg_lib.pipeline.network_facts import network_facts
from vlg_lib.pipeline.run import Run


def predict_scenes(
    run: Run,
    kind: str,
    folders: Sequence[Path],
    out: Path,
    *,
    progress: bool = True,
) -> None:
    """Write the labels that the network ``kind`` of a run gives to the points
    of scenes, and the network.

    The scenes in ``folders`` need points and colours only. Written are
    ``out/SCENE.ply``, with an int property ``label`` (an index into the
    classes, in the order of the points; the header names the classes), and
    ``out/network.safetensors``. ValueError where the run has not trained the
    network, and for a scene of other classes.
    """
    _check_trained(run, kind)
    network = run.networks.trained(kind)
    save_network(
        out / "network.safetensors",
        network.cpu(),
        half=False,
        **network_facts(run, kind),
    )
    network.to(run.stages.device)
    for folder in tqdm(
        folders, "labels", unit="scene", disable=None if progress else True
    ):
        _predict_scene(run, kind, folder, out)


def _check_trained(run: Run, kind: str) -> None:
    path = run.networks.checkpoint(kind)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; train it first (vlg run), with the same"
            " profile, seed, scenes, teacher and cache"
        )


def _predict_scene(run: Run, kind: str, folder: Path, out: Path) -> None:
    scene, classes = read_scene(folder), run.scenes.class_set
    if scene.class_set != classes:
        raise ValueError(
            f"{folder}: expected the classes {classes.name}, found"
            f" {scene.class_set.name}"
        )
    labels = run.networks.predict(kind, scene).cpu()
    write_points(
        out / f"{scene.name}.ply",
        scene.points,
        classes.colors()[labels],
        labels=labels,
        comments=label_comments(classes),
    )
