"""The command line, ``python -m vlg_lib``: one function a command; each
``--help`` shows examples.
"""

import inspect
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
import typer

import vlg_lib
from vlg_lib import pipeline
from vlg_lib.data.point_clouds import UNITS, UP_AXES
from vlg_lib.networks.zoo import list_checkpoints
from vlg_lib.own_scan.diagnosis import check as check_scene
from vlg_lib.own_scan.fuse import scan as scan_folder
from vlg_lib.own_scan.label import label_scan, train_on_scan
from vlg_lib.own_scan.predict import predict as predict_cloud
from vlg_lib.own_scan.summary import describe as describe_scene
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import PROFILES, get_profile, with_words
from vlg_lib.training import distributed
from vlg_lib.vision_language import list_models
from vlg_lib.vision_language.prompts import split_synonyms, split_templates

app = typer.Typer(
    name="vlg_lib",
    help=(
        "Label every point of a 3D scan with words: from posed images, a 2D"
        " vision-language model and scene tags."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SceneFolder = Annotated[
    Path, typer.Argument(help="Scene folder in the library's layout.")
]
PROMPTS = (
    "Templates: 'a {name} | a photo of a {name}', or imagenet for CLIP's 80"
)
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1 [CUDA where there is one]."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Add a command to the app. Its help is its docstring; literal blocks, as
    after ``Examples::``, keep their form.
    """
    # \b tells click
    kept = re.sub(
        r"^(.*)::\n\n",
        "\b\n\\1:\n",
        inspect.getdoc(function) or "",
        flags=re.MULTILINE,
    )
    return app.command(help=kept)(function)


def _table(rows: list[pipeline.Row]) -> str:
    """The table as aligned text."""
    lines = [
        f"{'row':24} {'mIoU':>6} {'95 % interval':>14} {'accuracy':>9}"
        f" {'mIoU train':>11} {'seconds':>8}"
    ]
    for row in rows:
        between = f"{row['miou_low']:.1f}-{row['miou_high']:.1f}"
        lines.append(
            f"{row['row']:24} {row['miou']:6.1f} {between:>14}"
            f" {row['accuracy']:9.1f} {row['miou_train']:11.1f}"
            f" {row['seconds']:8.1f}"
        )
    return "\n".join(lines)


@command
def run(
    source: Annotated[
        str,
        typer.Option(
            help="rooms: made by the seed; layout: your scene folders."
        ),
    ] = "rooms",
    profile: Annotated[
        str,
        typer.Option(help=f"Sizes of the run: auto, {', '.join(PROFILES)}."),
    ] = "auto",
    seed: Annotated[
        int,
        typer.Option(
            help="Whole number from 0; makes the rooms and the adapter's start."
        ),
    ] = 0,
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
    fused: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Folder of fused embeddings, one file a scene [made from the"
                " images]."
            )
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="2D model, see info [the profile's].")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help=f"{PROMPTS} [the profile's].")
    ] = None,
    synonyms: Annotated[
        str,
        typer.Option(
            help="More names of classes: 'sofa = couch, settee; bin = basket'."
        ),
    ] = "",
    keep_frames: Annotated[
        float,
        typer.Option(
            help="GB of dense embeddings of frames to keep in the cache."
        ),
    ] = 0.0,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of kept artefacts [VLG_CACHE or ~/.cache/vlg_lib]."
        ),
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Run the whole method and print one table.

    Scenes, projection, pseudo labels, the adapter, evaluation. Everything made
    on the way is kept in the cache folder, so a run that was stopped (or
    killed) continues where it was, and a second run takes seconds.

    Examples::

      python -m vlg_lib run                                  made rooms, the sizes that suit this machine
      python -m vlg_lib run --profile fast --seed 1 --out results/seed1
      python -m vlg_lib run --source layout --scenes my_scans --teacher open_clip/ViT-B-16-quickgelu/openai/naclip
      python -m vlg_lib run --scenes my_scans --source layout --prompts imagenet --synonyms "sofa = couch, settee" \
          --teacher "open_clip/ViT-B-16-quickgelu/openai/naclip?short_side=336&window=224&dtype=float16"
      accelerate launch --multi_gpu --num_processes 4 --mixed_precision fp16 -m vlg_lib run --profile full

    The last line is for four GPUs; the book's page "Many GPUs" has more
    machines, SLURM and Colab.

    Writes::

      OUT/table.json   a list of {row, miou, accuracy, seconds, ...}, in per cent and seconds
      OUT/run.json     profile, seed, versions, device, number of processes, what was skipped

    The columns "miou" and "accuracy" are of test scenes, "train" of the scenes
    that the adapter learnt from. Rows with a mask use the tags of the scene
    they are scored on.
    """
    sizes = with_words(
        get_profile(profile),
        teacher,
        split_templates(prompts) if prompts else None,
        split_synonyms(synonyms),
    )
    options = RunOptions(
        cache_folder=cache,
        scenes_folder=scenes,
        fused_folder=fused,
        keep_gb=keep_frames,
        device=device,
        progress=not quiet,
    )
    rows = pipeline.run_pipeline(source, sizes, seed, out, options)
    if distributed.rank() == 0:
        print(_table(rows))
        print(f"table: {out / 'table.json'}")
    distributed.finish()


@command
def predict(
    cloud: Annotated[
        Path, typer.Argument(help="PLY file with a coloured point cloud.")
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            help=(
                "A .safetensors file, or one of:"
                f" {', '.join(list_checkpoints()) or 'none shipped'}."
            )
        ),
    ] = "3dss-vlg",
    classes: Annotated[
        str | None,
        typer.Option(
            help="Words with commas between [the classes of the checkpoint]."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="PLY file to write; .html and .json are written beside it."
        ),
    ] = Path("out/labels.ply"),
    units: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(UNITS)} [m, where the size allows it]."
        ),
    ] = None,
    up: Annotated[
        str,
        typer.Option(help=f"The axis that points up: {', '.join(UP_AXES)}."),
    ] = "z",
    augmentations: Annotated[
        int,
        typer.Option(
            help="Turned copies of the cloud whose scores are averaged."
        ),
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            help=(
                "Divides what the softmax turns into scores [0.05 embeddings, 1"
                " scores]."
            )
        ),
    ] = None,
    no_color: Annotated[
        bool,
        typer.Option(
            "--no-color", help="Take mid-grey for the colours of all points."
        ),
    ] = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Label every point of a coloured point cloud with a trained 3D network. No
    images, no tags.

    CLOUD is a PLY file, binary or text: x y z in metres with z up (else say so
    with --units and --up), and colours as bytes, 16-bit numbers or floats.
    Points with NaN are left out and counted, and keep their row in the result.
    Large clouds are cut into overlapping tiles, so that the network's memory
    stays bounded.

    Examples::

      python -m vlg_lib predict room.ply                     the classes that the network was trained with
      python -m vlg_lib predict room.ply --classes "wall,floor,chair" --out out/room.ply
      python -m vlg_lib predict phone.ply --units mm --up y --augmentations 5
      python -m vlg_lib predict room.ply --checkpoint my_network.safetensors

    Writes::

      OUT        the points in the colours of their classes, with label (-1: none) and score (probability, 0 to 1)
      OUT.html   the same as a 3D page that needs no network; the ending .ply is replaced
      OUT.json   points of each class, what was left out, units, settings

    With a network of embeddings (3dss-vlg, openscene) --classes may be any
    words that its text tower knows; a network of scores (cam, cross-entropy,
    supervised) chooses among the classes it was trained with. A cloud without
    colours is refused, since the networks learnt from coloured rooms;
    --no-color labels it by its shape alone, all points mid-grey.
    """
    prediction = predict_cloud(
        cloud,
        checkpoint,
        classes,
        out,
        units=units,
        up=up,
        augmentations=augmentations,
        temperature=temperature,
        use_color=not no_color,
        device=device,
        progress=not quiet,
    )
    print(prediction)
    print(
        f"points: {out}, page: {out.with_suffix('.html')}, summary:"
        f" {out.with_suffix('.json')}"
    )


@command
def scan(
    folder: SceneFolder,
    out: Annotated[
        Path, typer.Option(help="Folder for what is written.")
    ] = Path("out"),
    tags: Annotated[
        str,
        typer.Option(
            help="Classes in the scene, with commas between: label its points."
        ),
    ] = "",
    model: Annotated[
        str, typer.Option(help="2D model for --tags; see info.")
    ] = "small-attributes",
    prompts: Annotated[
        str | None,
        typer.Option(help=f"{PROMPTS} [a {{name}}, or the profile's]."),
    ] = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="With --tags: train a 3D network on this scan."
        ),
    ] = False,
    profile: Annotated[
        str,
        typer.Option(help=f"Sizes of --train: auto, {', '.join(PROFILES)}."),
    ] = "auto",
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Check a scan with a known answer, the image colours fused onto its
    points; with --tags, label its points.

    Where poses, intrinsics and depth are right, the fused colours are the
    colours of the points.

    Example, with your own posed RGB-D folder::

      python data_scripts/convert_rgbd.py my_scan --out scenes/my_scan
      python -m vlg_lib check scenes/my_scan
      python -m vlg_lib scan scenes/my_scan --out out --tags "floor,wall,chair,table"
      python -m vlg_lib scan scenes/my_scan --out out --tags "floor,wall,chair,table" --train
      python -m vlg_lib predict another_scan.ply --checkpoint out/network.safetensors

    Writes::

      OUT/fused.ply    the points in the fused colours, with the number of views
      OUT/scan.html    the same as a 3D page that needs no network
      OUT/labelled.ply, OUT/labelled.html    with --tags: the points in the colours of their classes
      OUT/trained.ply, OUT/trained.html      with --train: the same from the scan's own 3D network
      OUT/network.safetensors                with --train: that network; it labels other scans of such places

    A training that was stopped goes on where it was: what is made is kept in
    VLG_CACHE (or ~/.cache/vlg_lib).
    """
    if train and not tags:
        raise ValueError(
            "--train learns from tags: type the classes that are in the scene"
            " with --tags"
        )
    print(scan_folder(folder, out, progress=not quiet))
    print(f"points: {out / 'fused.ply'}, page: {out / 'scan.html'}")
    if tags:
        typed = [tag.strip() for tag in tags.split(",") if tag.strip()]
        templates = split_templates(prompts) if prompts else None
        if train:
            sizes = with_words(get_profile(profile), model, templates)
            options = RunOptions(device=device, progress=not quiet)
            counts = train_on_scan(folder, out, typed, sizes, options)
        else:
            counts = label_scan(
                folder, out, typed, model, templates, progress=not quiet
            )
        print(
            "labels:"
            f" {', '.join(f'{name} {count}' for name, count in counts.items())}"
        )
        if model.startswith("small-"):
            print(
                f"note: {model} knows the book's made rooms only; on a real"
                " scan take another --model"
            )
        name = out / ("trained" if train else "labelled")
        print(f"points: {name}.ply, page: {name}.html")


@command
def describe(folder: SceneFolder) -> None:
    """Describe a scene: frames, sizes, units, ranges of depth, extent, what was
    left out, classes, scene labels.
    """
    print(describe_scene(folder))


@command
def check(folder: SceneFolder) -> None:
    """Find the classic mistakes of a scan by measurement; the exit status is 1
    where there is a fault.

    Depth pixels of a frame, moved into another, must agree with its depth; the
    points must lie on the frames' surfaces and have the images' colours; z must
    point up. Where they do not, inverted poses, another depth scale, swapped
    axes, intrinsics of another image size, other units and a one-sided
    alignment are undone on trial: what makes things fit is the fault, and is
    printed with its fix.

    Example::

      python -m vlg_lib check scenes/my_scan
    """
    report = check_scene(folder)
    print(report)
    raise typer.Exit(int(bool(report.findings)))


@app.command(
    context_settings={"ignore_unknown_options": True}, add_help_option=False
)
def plan(options: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Reckon disk, memory and time of a data set, from rates that were
    measured; in a checkout (plan --help).
    """
    script = Path(vlg_lib.__file__).parents[1] / "data_scripts" / "plan.py"
    if not script.is_file():
        raise ValueError(
            f"{script}: no such file: plan reads the rates in results/, so run"
            " it in a checkout"
        )
    raise typer.Exit(
        subprocess.run(
            [sys.executable, script, *(options or ())], check=False
        ).returncode
    )


@command
def info() -> None:
    """Print versions, the device, the cache folder, the models and the sizes of
    every profile.
    """
    print(
        f"vlg_lib {vlg_lib.__version__}, python {platform.python_version()},"
        f" torch {torch.__version__}"
    )
    print(
        "device:"
        f" {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}"
    )
    try:
        print(f"MinkowskiEngine: {version('MinkowskiEngine')}")
    except PackageNotFoundError:
        print(
            "MinkowskiEngine: not installed (not needed: the PyTorch engine"
            " gives the same numbers)"
        )
    print(f"cache: {pipeline.default_cache()}")
    print(f"2D models: {', '.join(list_models())}")
    print(f"3D networks: {', '.join(list_checkpoints()) or 'none shipped'}")
    print(*(f"profile {profile}" for profile in PROFILES.values()), sep="\n")


def main() -> None:
    """Run the command line; an error of the input is one line on standard error
    and exit code 2.
    """
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from error
