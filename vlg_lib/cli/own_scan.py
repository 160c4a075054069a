"""What a person does with a scan: check, describe, fuse, label, predict."""

from pathlib import Path
from typing import Annotated

import typer

from vlg_lib.cli import options
from vlg_lib.cli.words import templates_of, worded_profile


def check(folder: options.SceneFolder) -> None:
    """Find the classic mistakes of a scan by measurement; the exit status is 1
    where there is a fault.

    Depth pixels of a frame, moved into another, must agree with its depth; the
    points must lie on the frames' surfaces and have the images' colours; z must
    point up. Where they do not, inverted poses, another depth scale, swapped
    axes, intrinsics of another image size, other units and a one-sided
    alignment are undone on trial: what makes things fit is the fault, and is
    printed with its fix.

    Example::

      vlg check scenes/my_scan
    """
    from vlg_lib.own_scan.diagnosis import check as check_scene

    report = check_scene(folder)
    typer.echo(report)
    raise typer.Exit(int(bool(report.findings)))


def describe(folder: options.SceneFolder) -> None:
    """Describe a scene: frames, sizes, units, ranges of depth, extent, what was
    left out, classes, tags.

    Example::

      vlg describe scenes/my_scan
    """
    from vlg_lib.own_scan.summary import describe as describe_scene

    typer.echo(describe_scene(folder))


def fuse(
    folder: options.SceneFolder,
    out: options.OutFolder = Path("out"),
    quiet: options.Quiet = False,
) -> None:
    """Fuse the image colours of a scan onto its points: a check with a known
    answer.

    Where poses, intrinsics and depth are right, the fused colours are the
    colours of the points. No model and no tags are needed.

    Example::

      vlg fuse scenes/my_scan --out out

    Writes::

      OUT/fused.ply    the points in the fused colours, with the number of views
      OUT/fused.html   the same as a 3D page that needs no network
    """
    from vlg_lib.own_scan.fuse import fuse_colors

    typer.echo(fuse_colors(folder, out, progress=not quiet))
    typer.echo(f"points: {out / 'fused.ply'}, page: {out / 'fused.html'}")


def label(
    folder: options.SceneFolder,
    tags: options.Tags = "",
    out: options.OutFolder = Path("out"),
    teacher: Annotated[
        str, typer.Option(help="2D model, see vlg models.")
    ] = "small-attributes",
    prompts: options.Prompts = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Train a 3D network on this scan, too."),
    ] = False,
    yes_on_rooms_model: Annotated[
        bool,
        typer.Option(
            "--yes-on-rooms-model",
            help="With --train: on a real scan, too, learn from a small model.",
        ),
    ] = False,
    profile: options.ProfileName = "auto",
    vote: options.Vote = False,
    device: options.Device = None,
    quiet: options.Quiet = False,
) -> None:
    r"""Label the points of a scan among its tags, the classes that you say are
    in it; with --train, train a 3D network on it.

    The small models know the book's made rooms only. On a real scan take
    another --teacher, such as open_clip/ViT-B-16-quickgelu/openai/naclip;
    --train with a small one asks for --yes-on-rooms-model there.

    Example, with your own posed RGB-D folder::

      vlg convert rgbd my_scan --out scenes --classes "floor,wall,chair,table"
      vlg check scenes/my_scan
      vlg label scenes/my_scan --tags "floor,wall,chair,table" --out out
      vlg label scenes/my_scan --tags "floor,wall,chair,table" --train \
          --yes-on-rooms-model
      vlg predict another_scan.ply --checkpoint out/network.safetensors

    Writes::

      OUT/labelled.ply, OUT/labelled.html   the points in the colours of their
                                            classes
      OUT/trained.ply, OUT/trained.html     with --train: the same from the
                                            scan's own 3D network
      OUT/network.safetensors               with --train: that network; it
                                            labels other scans of such places

    A training that was stopped goes on where it was: what is made is kept in
    VLG_CACHE (or ~/.cache/vlg_lib). --profile chooses its sizes; without
    --train it says nothing, and a prompt is "a {name}" where none is given.
    With --vote superpoints of the scan vote, or those that its data set ships
    (ScanNet's segments); the network of --train learns from the labels before
    the vote.
    """
    from vlg_lib.own_scan.label import (
        is_converted,
        label_scan,
        rooms_model,
        train_on_scan,
    )
    from vlg_lib.pipeline.options import RunOptions
    from vlg_lib.superpoints import SuperpointSettings

    typed = options.split_words(tags) or _own_tags(folder)
    if warning := rooms_model(folder, teacher):
        if train and is_converted(folder) and not yes_on_rooms_model:
            raise ValueError(
                f"{warning}; to train on its labels all the same:"
                " --yes-on-rooms-model"
            )
        typer.echo(f"note: {warning}")
    if train:
        sizes = worded_profile(profile, teacher, prompts)
        settings = RunOptions(device=device, progress=not quiet)
        counts = train_on_scan(folder, out, typed, sizes, settings, vote=vote)
    else:
        templates = templates_of(prompts)
        counts = label_scan(
            folder,
            out,
            typed,
            teacher,
            templates,
            superpoints=SuperpointSettings() if vote else None,
            device=device,
            progress=not quiet,
        )
    found = ", ".join(f"{name} {count}" for name, count in counts.items())
    typer.echo(f"labels: {found}")
    written = out / ("trained" if train else "labelled")
    typer.echo(f"points: {written}.ply, page: {written}.html")


def predict(
    cloud: Annotated[
        Path,
        typer.Argument(
            metavar="CLOUD", help="PLY file with a coloured point cloud."
        ),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            help=(
                "A .safetensors file, or one of:"
                f" {', '.join(options.CHECKPOINTS)}."
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
            help=(
                f"One of {', '.join(options.UNITS)} [m, where the size allows"
                " it]."
            )
        ),
    ] = None,
    up: Annotated[
        str,
        typer.Option(
            help=f"The axis that points up: {', '.join(options.UP_AXES)}."
        ),
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
    vote: options.Vote = False,
    device: options.Device = None,
    quiet: options.Quiet = False,
) -> None:
    """Label every point of a coloured point cloud with a trained 3D network. No
    images, no tags.

    CLOUD is a PLY file, binary or text: x y z in metres with z up (else say so
    with --units and --up), and colours as bytes, 16-bit numbers or floats.
    Points with NaN are left out and counted, and keep their row in the result.
    Large clouds are cut into overlapping tiles, so that the network's memory
    stays bounded.

    Examples::

      vlg predict room.ply
      vlg predict room.ply --classes "wall,floor,chair" --out out/room.ply
      vlg predict phone.ply --units mm --up y --augmentations 5
      vlg predict room.ply --checkpoint my_network.safetensors
      vlg predict room.ply --vote

    Writes::

      OUT        the points in the colours of their classes, with label (-1:
                 none) and score (probability, 0 to 1)
      OUT.html   the same as a 3D page that needs no network; the ending .ply
                 is replaced
      OUT.json   points of each class, what was left out, units, settings

    With a network of embeddings (3dss-vlg, openscene) --classes may be any
    words that its text tower knows; a network of scores (cam, cross-entropy,
    supervised) chooses among the classes it was trained with. A cloud without
    colours is refused, since the networks learnt from coloured rooms;
    --no-color labels it by its shape alone, all points mid-grey.
    """
    from vlg_lib.own_scan.predict import PredictionSettings
    from vlg_lib.own_scan.predict import predict as predict_cloud
    from vlg_lib.superpoints import SuperpointSettings

    settings = PredictionSettings(
        units=units,
        up=up,
        augmentations=augmentations,
        temperature=temperature,
        use_color=not no_color,
        superpoints=SuperpointSettings() if vote else None,
    )
    prediction = predict_cloud(
        cloud,
        checkpoint,
        classes,
        out,
        settings,
        device=device,
        progress=not quiet,
    )
    typer.echo(prediction)
    typer.echo(
        f"points: {out}, page: {out.with_suffix('.html')}, summary:"
        f" {out.with_suffix('.json')}"
    )


def _own_tags(folder: Path) -> tuple[str, ...]:
    """The tags that the scene itself has; ValueError where it has none."""
    from vlg_lib.data.layout import read_scene

    scene = read_scene(folder)
    tags = tuple(scene.class_set.present(scene.scene_labels))
    if not tags:
        raise ValueError(
            f"{folder}: labels come from tags, and its scene.json has none:"
            " type the classes that are in the scene with --tags"
        )
    return tags
