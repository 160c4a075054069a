"""Runs of the whole method over many scenes, and what goes before and after
them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlg_lib.cli import options
from vlg_lib.cli.words import worded_profile

if TYPE_CHECKING:
    from vlg_lib.pipeline.table import Row


def run(
    source: Annotated[
        str,
        typer.Option(
            help="rooms: made by the seed; layout: your scene folders."
        ),
    ] = "rooms",
    profile: options.ProfileName = "auto",
    seed: options.Seed = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for table.json and run.json.")
    ] = Path("out"),
    scenes: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Folder of scene folders, or of train/ and test/ (source"
                " layout)."
            )
        ),
    ] = None,
    fused: options.Fused = None,
    teacher: options.Teacher = None,
    prompts: options.Prompts = None,
    synonyms: options.Synonyms = "",
    keep_frames: Annotated[
        float,
        typer.Option(help="GB of the cache for dense embeddings of frames."),
    ] = 0.0,
    cache: options.Cache = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
) -> None:
    r"""Run the whole method and print one table.

    Scenes, fused embeddings, pseudo labels, the adapter, the 3D networks,
    evaluation. Everything made on the way is kept in the cache folder, so a run
    that was stopped (or killed) continues where it was, and a second run takes
    seconds.

    Examples::

      vlg run
      vlg run --profile fast --seed 1 --out results/seed1
      vlg run --source layout --scenes my_scans \
          --teacher open_clip/ViT-B-16-quickgelu/openai/naclip
      vlg run --source layout --scenes my_scans --prompts imagenet \
          --synonyms "sofa = couch, settee" \
          --teacher "open_clip/ViT-B-16-quickgelu/openai/naclip?short_side=336"
      accelerate launch --multi_gpu --num_processes 4 --mixed_precision fp16 \
          -m vlg_lib run --profile full

    The last line is for four GPUs; the book's page "Many GPUs" has more
    machines, SLURM and Colab.

    Writes::

      OUT/table.json   a list of {row, miou, accuracy, seconds, ...}, in per
                       cent and seconds
      OUT/run.json     profile, seed, versions, device, number of processes,
                       what was skipped

    The columns "miou" and "accuracy" are of test scenes, "train" of the scenes
    that the adapter learnt from. Rows with a mask use the tags of the scene
    they are scored on.
    """
    from vlg_lib.pipeline.options import RunOptions
    from vlg_lib.pipeline.run import run_pipeline
    from vlg_lib.training import distributed

    chosen = worded_profile(profile, teacher, prompts, synonyms)
    settings = RunOptions(
        cache_folder=cache,
        scenes_folder=scenes,
        fused_folder=fused,
        keep_gb=keep_frames,
        device=device,
        progress=not quiet,
    )
    rows = run_pipeline(source, chosen, seed, out, settings)
    if distributed.rank() == 0:
        typer.echo(_table(rows))
        typer.echo(f"table: {out / 'table.json'}")
    distributed.finish()


def predict_scenes(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of the scenes to label."),
    ],
    scenes: Annotated[Path, typer.Option(help="The scenes of the run.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder that receives SCENE.ply and network.safetensors."
        ),
    ] = Path("predictions"),
    network: Annotated[
        str, typer.Option(help=f"One of {', '.join(options.NETWORKS)}.")
    ] = "3dss-vlg",
    profile: options.ProfileName = "paper-scannet",
    seed: options.Seed = 0,
    fused: options.Fused = None,
    teacher: options.Teacher = None,
    prompts: options.Prompts = None,
    synonyms: options.Synonyms = "",
    cache: options.Cache = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
) -> None:
    r"""Label the points of many scenes with a 3D network that a run trained.

    The run's network is found in the cache, so --profile, --seed, --scenes,
    --fused, --teacher, --prompts, --synonyms and --cache are those of the run.
    The scenes to label need points and colours only: no images, no tags, no
    labels.

    Examples::

      vlg run --source layout --scenes scannet --profile paper-scannet
      vlg predict-scenes scannet-server --scenes scannet \
          --profile paper-scannet --out predictions
      vlg export-scannet predictions --scenes scannet-server \
          --out submission.zip

    Writes::

      OUT/SCENE.ply             the points with an int property label, an index
                                into the classes, in the order of the points
      OUT/network.safetensors   the network, for vlg predict --checkpoint
    """
    from vlg_lib.data.layout import scene_folders
    from vlg_lib.pipeline.options import RunOptions
    from vlg_lib.pipeline.predict_scenes import predict_scenes as write_labels
    from vlg_lib.pipeline.run import open_run

    chosen = worded_profile(profile, teacher, prompts, synonyms)
    settings = RunOptions(
        cache_folder=cache,
        scenes_folder=scenes,
        fused_folder=fused,
        device=device,
        progress=not quiet,
    )
    trained = open_run(chosen, seed, settings)
    folders = scene_folders(folder)
    write_labels(trained, network, folders, out, progress=not quiet)
    typer.echo(
        f"{out}: {len(folders)} scenes labelled, and network.safetensors"
    )


def export_scannet(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Folder of SCENE.ply with a property label.",
        ),
    ],
    scenes: Annotated[Path, typer.Option(help="Folder of converted scenes.")],
    out: Annotated[Path, typer.Option(help="The zip to write.")] = Path(
        "submission.zip"
    ),
    split: options.Split = None,
) -> None:
    r"""Pack predictions for the ScanNet benchmark server, and check the archive
    as the server does: names, lines, numbers.

    Example::

      vlg export-scannet predictions --scenes scannet-server \
          --out submission.zip --split scannetv2_test.txt
    """
    from vlg_lib.convert.scannet_benchmark import export_submission

    typer.echo(export_submission(predictions, scenes, out, split))


def plan(
    source: Annotated[
        str, typer.Option(help=f"One of {', '.join(options.SOURCES)}.")
    ] = "scannet",
    scenes: Annotated[
        int | None, typer.Option(help="Scenes [those of the profile].")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Points a scene.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a scene.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    dim: Annotated[
        int | None, typer.Option(help="Dimensions of the embeddings.")
    ] = None,
    voxels: Annotated[
        int | None, typer.Option(help="Voxels a scene [its points].")
    ] = None,
    teacher: options.Teacher = None,
    max_memory: Annotated[
        int | None, typer.Option(help="Bytes for the sums of stage 1.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE in place of a measured rate."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of recorded rates [results/ of the checkout]."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.")
    ] = False,
) -> None:
    r"""Reckon disk, memory and time of a data set, before anything is
    downloaded.

    Bytes follow from formulas. Times follow from rates that were measured: they
    are read from the records of --results and printed with the machine. A rate
    that no record holds is not guessed: measure it, and give it with --rate, in
    the unit that the plan prints.

    Examples::

      vlg plan --source scannet --scenes 1201 --dim 768
      vlg plan --source own --scenes 3 --points 900000 --frames 400 \
          --teacher openseg --rate model=0.8 --max-memory 1000000000
    """
    from vlg_lib import plan as planner

    given = planner.Given(
        scenes=scenes,
        points=points,
        frames=frames,
        width=width,
        height=height,
        dim=dim,
        voxels=voxels,
        teacher=teacher,
        max_memory=max_memory,
    )
    job = planner.make_job(source, given)
    measured = planner.measured(job, planner.find_results(results))
    rates = planner.with_given(measured, rate or [])
    said_by = planner.SOURCES[source].said_by
    typer.echo(
        planner.as_json(job, rates)
        if as_json
        else planner.as_text(job, rates, said_by)
    )


def experiment(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help=f"One of {', '.join(options.EXPERIMENTS)}."
        ),
    ],
    seeds: Annotated[
        str, typer.Option(help="Seeds, with commas between [3,4,5].")
    ] = "",
    methods: Annotated[
        str, typer.Option(help="Some of its methods, with commas [all].")
    ] = "",
    out: Annotated[
        Path, typer.Option(help="Folder of the recorded files.")
    ] = Path("results/evidence"),
    cache: options.Cache = None,
    device: options.Device = None,
    quiet: options.Quiet = False,
) -> None:
    r"""Make the recorded evidence of the book: one file for each method and
    seed, and the tables of them.

    What is there is not made again, so an experiment that was stopped
    continues, and its parts can run on several machines. A 3D network takes
    about five minutes of a core; the whole of "main", over an hour a seed.

    Examples::

      vlg experiment main --seeds 3 --methods projection,3dss-vlg,supervised
      vlg experiment main
      vlg experiment grounded --seeds 3

    Writes::

      OUT/VARIANT/METHOD-seed-SEED.json   one confusion matrix a test room
      OUT/VARIANT.json                    the tables, of the methods that have
                                          all the seeds
    """
    from vlg_lib.pipeline.experiments import run_experiment
    from vlg_lib.pipeline.options import RunOptions

    settings = RunOptions(cache_folder=cache, device=device, progress=not quiet)
    written = run_experiment(
        name,
        out,
        seeds=[int(seed) for seed in _split(seeds)],
        methods=_split(methods),
        options=settings,
    )
    for path in written:
        typer.echo(path)


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _table(rows: "list[Row]") -> str:
    """The table as aligned text."""
    lines = [
        f"{'row':30} {'mIoU':>6} {'95 % interval':>14} {'accuracy':>9}"
        f" {'mIoU train':>11} {'seconds':>8}"
    ]
    for row in rows:
        between = f"{row['miou_low']:.1f}-{row['miou_high']:.1f}"
        lines.append(
            f"{row['row']:30} {row['miou']:6.1f} {between:>14}"
            f" {row['accuracy']:9.1f} {row['miou_train']:11.1f}"
            f" {row['seconds']:8.1f}"
        )
    return "\n".join(lines)
