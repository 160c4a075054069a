"""Label the points of scenes with a 3D network that a run has trained: one PLY
a scene, and the network as a file.

    python -m vlg_lib run --source layout --scenes scannet --profile paper-scannet
    python data_scripts/label_scenes.py scannet-server predictions --scenes scannet --profile paper-scannet
    python data_scripts/export_scannet.py predictions scannet-server submission.zip

The first command trained on ``scannet/train``; the second finds its network in
the cache (so --profile, --seed, --scenes, --fused, --teacher and --cache are
those of the run) and labels the scenes of another folder, which need points and
colours only: no images, no tags, no labels. Written are ``SCENE.ply`` with an
int property ``label`` (an index into the classes, in the order of the scene's
points) and ``network.safetensors``, which ``python -m vlg_lib predict`` takes
as ``--checkpoint`` for any other cloud.
"""

from pathlib import Path
from typing import Annotated

import typer
from ship_networks import facts
from tqdm.auto import tqdm

from vlg_lib.data.layout import read_scene, scene_folders
from vlg_lib.data.ply import write_points
from vlg_lib.networks.point_network import save_network
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import get_profile, with_words
from vlg_lib.pipeline.run import Run, open_run


def label_scenes(run: Run, kind: str, folders: list[Path], out: Path) -> None:
    """Write the labels that the network ``kind`` of a run gives to the points
    of scenes, and the network.

    ValueError where the run has not trained it, and for a scene of other
    classes.
    """
    if not run.networks.checkpoint(kind).is_file():
        raise ValueError(
            f"{run.networks.checkpoint(kind)}: no such file; train it first"
            " (python -m vlg_lib run), with the same profile, seed, scenes and"
            " cache"
        )
    network, classes = run.networks.trained(kind), run.scenes.class_set
    save_network(
        out / "network.safetensors",
        network.cpu(),
        half=False,
        **facts(run, kind),
    )
    network.to(run.stages.device)
    for folder in tqdm(folders, "labels", unit="scene", disable=None):
        scene = read_scene(folder)
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
        )


def main(
    targets: Annotated[
        Path, typer.Argument(help="Folder of the scenes to label.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder that receives SCENE.ply and network.safetensors."
        ),
    ],
    scenes: Annotated[Path, typer.Option(help="The scenes of the run.")],
    profile: Annotated[
        str, typer.Option(help="The profile of the run.")
    ] = "paper-scannet",
    seed: Annotated[int, typer.Option(help="The seed of the run.")] = 0,
    fused: Annotated[
        Path | None,
        typer.Option(
            help="The fused embeddings of the run, where it was given any."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="The 2D model of the run, where it was given one."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="The cache of the run [VLG_CACHE or ~/.cache/vlg_lib]."
        ),
    ] = None,
    network: Annotated[
        str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")
    ] = "3dss-vlg",
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1 [CUDA where there is one]."),
    ] = None,
) -> None:
    """Label the points of scenes with a 3D network that a run has trained."""
    with one_line_errors():
        chosen = with_words(get_profile(profile), teacher)
        options = RunOptions(
            cache_folder=cache,
            scenes_folder=scenes,
            fused_folder=fused,
            device=device,
        )
        run = open_run(chosen, seed, options)
        folders = scene_folders(targets)
        label_scenes(run, network, folders, out)
    typer.echo(
        f"{out}: {len(folders)} scenes labelled, and network.safetensors"
    )


if __name__ == "__main__":
    typer.run(main)
