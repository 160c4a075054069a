"""``vlg convert FORMAT``: one command a format, whatever comes from outside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import typer

from vlg_lib.cli import options
from vlg_lib.cli.base import Command, add_command, new_app
from vlg_lib.cli.options import split_words
from vlg_lib.convert.formats.registry import FORMATS, OTHER_CONVERTERS

app = new_app(
    "convert",
    "Convert scans, data sets, features and networks of other programs into the"
    " forms that this library reads. vlg convert FORMAT --help has the options"
    " of a format.",
)
Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SRC", help="Folders of scans."),
]
OutScenes = Annotated[
    Path,
    typer.Option("--out", help="Folder that receives a scene folder for each."),
]
Classes = Annotated[
    str, typer.Option(help="Your own names of classes, with commas between.")
]
ClassSet = Annotated[
    str,
    typer.Option(help=f"Or a known list: {', '.join(options.CLASS_SETS)}."),
]
Tags = Annotated[
    str,
    typer.Option(help="Classes in the scenes, with commas between."),
]
TagsFile = Annotated[
    Path | None,
    typer.Option(
        help="Tags of your own: lines 'SCENE: class, class' [point labels]."
    ),
]
Every = Annotated[int, typer.Option(help="Take each n-th image.")]
Cell = Annotated[
    float,
    typer.Option(help="Grid cell for the points made from depth, metres."),
]
Cloud = Annotated[
    Path | None, typer.Option(help="PLY of coloured points to use instead.")
]
Points = Annotated[
    str,
    typer.Option(
        help="Points from depth: average, or tsdf (pip install open3d)."
    ),
]
Only = Annotated[
    str, typer.Option(help="Scenes to convert, with commas between [all].")
]
LeastPoints = Annotated[
    int, typer.Option(help="Points that make a class a tag.")
]
Jobs = Annotated[int, typer.Option(help="Scenes at the same time.")]


@runtime_checkable
class Result(Protocol):
    """What a converter tells; as text: what was done, notes, what failed."""

    @property
    def failed(self) -> Mapping[str, str]:
        """Errors by the name of what failed."""


def scan_command(form: str) -> Command:
    """The command of a format of posed images; they share their options."""

    def convert_format(
        sources: Sources,
        out: OutScenes,
        classes: Classes = "",
        class_set: ClassSet = "scannet-20",
        tags: Tags = "",
        up: Annotated[
            str | None,
            typer.Option(
                help="x, -y, ... or auto: by cameras and floor [the format's]."
            ),
        ] = None,
        every: Every = 1,
        cell: Cell = 0.04,
        metres: Annotated[
            float,
            typer.Option(
                help="Metres in a unit of the source (COLMAP has its own)."
            ),
        ] = 1.0,
        depth_scale: Annotated[
            float | None,
            typer.Option(help="Depth units a metre [what the format says]."),
        ] = None,
        camera: Annotated[
            str,
            typer.Option(
                help="fx,fy,cx,cy[,width,height], pixels [the format's]."
            ),
        ] = "",
        cloud: Cloud = None,
        points: Points = "average",
        turn: Annotated[
            int | None,
            typer.Option(
                help="Turn images, degrees counter-clockwise [till they stand]."
            ),
        ] = None,
        jobs: Jobs = 1,
        quiet: options.Quiet = False,
    ) -> None:
        from vlg_lib.convert.scan import ScanSettings, convert_scans

        settings = ScanSettings(
            format=form,
            up=up,
            every=every,
            cell=cell,
            metres=metres,
            depth_scale=depth_scale,
            camera=_numbers("--camera", camera),
            cloud=cloud,
            points=points,
            turn=turn,
            class_set=class_set,
            classes=split_words(classes),
            scene_labels=split_words(tags),
        )
        finish(
            convert_scans(sources, out, settings, jobs=jobs, progress=not quiet)
        )

    convert_format.__doc__ = f"""Convert scans of the format {form} into scene \
folders.

    What lies in the folder: {FORMATS[form].needs}.

    Each SRC becomes OUT/NAME. A scan that is there with the same settings is
    kept by the next run. Frames that cannot be used are left out and counted.
    vlg check OUT/NAME says whether it all fits.

    Examples::

      vlg convert {form} my_scan --out scenes --every 10
      vlg convert {form} kitchen garage --out scenes --jobs 2 \\
          --classes "wall, floor, chair, desk" --tags "wall, floor, desk"
    """
    return convert_format


for form, format in FORMATS.items():
    add_command(app, scan_command(form), form, format.needs)


def rgbd(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Folder with images, depth, intrinsics, poses."
        ),
    ],
    out: OutScenes,
    classes: Classes = "",
    class_set: ClassSet = "scannet-20",
    tags: Tags = "",
    images: Annotated[
        str, typer.Option(help="Folder of colour images in SRC.")
    ] = "images",
    depth: Annotated[
        str, typer.Option(help="Folder of 16-bit depth PNG of the same stems.")
    ] = "depth",
    intrinsics: Annotated[
        str, typer.Option(help="3x3 or 4x4 matrix of the colour images.")
    ] = "K.txt",
    depth_intrinsics: Annotated[
        str | None,
        typer.Option(
            help="The same for depth images that are not a mere resize."
        ),
    ] = None,
    pose_file: Annotated[
        str,
        typer.Option(help="File of 16 numbers a row, or folder of 4x4 files."),
    ] = "poses.txt",
    poses: Annotated[
        str,
        typer.Option(
            help="What a pose maps: camera-to-world or world-to-camera."
        ),
    ] = "camera-to-world",
    camera_axes: Annotated[
        str,
        typer.Option(
            help="opencv: z forward; opengl: z backward, y up (ARKit, Blender)."
        ),
    ] = "opencv",
    up: Annotated[
        str,
        typer.Option(
            help=f"The axis that points up: {', '.join(options.UP_AXES)}."
        ),
    ] = "z",
    depth_scale: Annotated[
        float,
        typer.Option(help="Depth units a metre: 1000 for mm, 5000 for TUM."),
    ] = 1000.0,
    depth_missing: Annotated[
        str, typer.Option(help="Depth codes for 'no depth', with commas.")
    ] = "0,65535",
    every: Every = 1,
    cell: Cell = 0.04,
    cloud: Cloud = None,
    points: Points = "average",
    quiet: options.Quiet = False,
) -> None:
    r"""Convert a plain folder of posed RGB-D images into a scene folder.

    SRC becomes OUT/NAME; an earlier scene there is replaced. You say its
    conventions with --poses, --camera-axes, --up and --depth-scale; vlg check
    OUT/NAME says whether they fit.

    Example::

      vlg convert rgbd my_scan --out scenes --up y --camera-axes opengl \
          --classes "wall, floor, chair, desk" --tags "wall, floor, desk"
    """
    from vlg_lib.convert.formats.rgbd_folder import (
        RgbdSettings,
        convert_rgbd_folder,
    )

    settings = RgbdSettings(
        images=images,
        depth=depth,
        intrinsics=intrinsics,
        depth_intrinsics=depth_intrinsics,
        pose_file=pose_file,
        poses=poses,
        camera_axes=camera_axes,
        up=up,
        depth_scale=depth_scale,
        depth_missing=_whole_numbers("--depth-missing", depth_missing),
        every=every,
        cell=cell,
        cloud=cloud,
        points=points,
        class_set=class_set,
        classes=split_words(classes),
        scene_labels=split_words(tags),
    )
    scene = out / source.resolve().name
    finish(convert_rgbd_folder(source, scene, settings, progress=not quiet))


def scannet(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Folder that holds one folder a scan."
        ),
    ],
    out: OutScenes,
    only: Only = "",
    split: options.Split = None,
    every: Annotated[
        int,
        typer.Option(help="Take frames whose number is a multiple of this."),
    ] = 20,
    size: Annotated[
        str,
        typer.Option(
            help="Grid of the frames: depth, color, or a size like 320x240."
        ),
    ] = "depth",
    align: Annotated[
        bool, typer.Option("--align", help="Apply axisAlignment.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(help="Exported frames by scene, instead of those in SRC."),
    ] = None,
    tsv: Annotated[
        Path | None,
        typer.Option(
            help="scannetv2-labels.combined.tsv, for aggregation files."
        ),
    ] = None,
    tags_file: TagsFile = None,
    least_points: LeastPoints = 1,
    ignore_extrinsics: Annotated[
        bool,
        typer.Option(
            "--ignore-extrinsics",
            help="Take depth as registered to colour in any case.",
        ),
    ] = False,
    points_only: Annotated[
        bool,
        typer.Option("--points-only", help="No frames: the mesh is enough."),
    ] = False,
    jobs: Jobs = 1,
    quiet: options.Quiet = False,
) -> None:
    r"""Convert scans of ScanNet into scene folders, with their point labels for
    evaluation.

    Whole scenes are kept by the next run, and a damaged scan is named at the
    end while the others are done.

    Examples::

      vlg convert scannet scans --out scannet/train \
          --split scannetv2_train.txt --size 320x240 --jobs 8
      vlg convert scannet scans --out few --only scene0000_00,scene0011_00
    """
    from vlg_lib.convert.registration import parse_size
    from vlg_lib.convert.scannet import (
        ScannetSettings,
        ScannetSource,
        convert_scannet,
    )

    settings = ScannetSettings(
        frame_skip=every,
        size=parse_size(size),
        align=align,
        least_points=least_points,
        ignore_extrinsics=ignore_extrinsics,
        points_only=points_only,
    )
    scans = ScannetSource(
        scans=source,
        images=images,
        tsv=tsv,
        tags=tags_file,
        scenes=split_words(only),
        split=split,
    )
    finish(convert_scannet(scans, out, settings, jobs=jobs, progress=not quiet))


def s3dis(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Stanford3dDataset_v1.2: Area_1/conferenceRoom_1/...",
        ),
    ],
    out: OutScenes,
    images: Annotated[
        Path | None,
        typer.Option(help="2D-3D-S: area_1/data/pose, rgb, depth, ..."),
    ] = None,
    areas: Annotated[
        str, typer.Option(help="Areas to convert, such as 1,2,3,4,6 [all].")
    ] = "",
    only: Only = "",
    split: options.Split = None,
    every: Every = 1,
    size: Annotated[
        str,
        typer.Option(
            help="Grid of the frames: depth, as they are, or one like 540x540."
        ),
    ] = "depth",
    cell: Annotated[
        float,
        typer.Option(
            help="Keep one point in each cell of this many metres; 0: all."
        ),
    ] = 0.0,
    undo_alignment: Annotated[
        bool,
        typer.Option(
            "--undo-alignment", help="SRC is the aligned version: turn back."
        ),
    ] = False,
    least_agreement: Annotated[
        float,
        typer.Option(help="Share of points that depth images must agree with."),
    ] = 0.5,
    tags_file: TagsFile = None,
    least_points: LeastPoints = 1,
    jobs: Jobs = 1,
    quiet: options.Quiet = False,
) -> None:
    r"""Convert the rooms of S3DIS, with their images of 2D-3D-S, into scene
    folders.

    Without --images a room has points and labels only.

    Example::

      vlg convert s3dis Stanford3dDataset_v1.2 --out s3dis/train \
          --images 2D-3D-S/noXYZ --areas 1,2,3,4,6 --size 320x320 --jobs 8
    """
    from vlg_lib.convert.registration import parse_size
    from vlg_lib.convert.s3dis import S3disSettings, S3disSource, convert_s3dis

    settings = S3disSettings(
        every=every,
        size=parse_size(size),
        cell=cell,
        undo_alignment=undo_alignment,
        least_agreement=least_agreement,
        least_points=least_points,
    )
    rooms = S3disSource(
        rooms=source,
        images=images,
        tags=tags_file,
        areas=_whole_numbers("--areas", areas),
        scenes=split_words(only),
        split=split,
    )
    finish(convert_s3dis(rooms, out, settings, jobs=jobs, progress=not quiet))


def openscene_features(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Folder of NAME.pt, or NAME_0.pt, NAME_1.pt ..."
        ),
    ],
    scenes: Annotated[
        Path,
        typer.Option(help="Folder of the scenes in the library's layout."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder that receives NAME.safetensors.")
    ],
    dim: Annotated[
        int | None,
        typer.Option(help="Dimensions that the embeddings must have."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Keep rows as long as they are.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    r"""Convert the fused features of OpenScene, for vlg run --fused; those that
    are there are kept.

    Example::

      vlg convert openscene-features scannet_multiview_openseg \
          --scenes scannet/train --out fused --dim 768 --plain
    """
    from vlg_lib.convert.openscene_features import (
        FeatureSettings,
        convert_features,
    )

    settings = FeatureSettings(dim=dim, normalize=not plain)
    finish(convert_features(source, scenes, out, settings, progress=not quiet))


def openscene_network(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="The published file (.pth, .pth.tar)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The checkpoint to write (.safetensors).")
    ],
    classes: Classes = "",
    class_set: ClassSet = "",
    architecture: Annotated[
        str, typer.Option(help="The network; the file does not name it.")
    ] = "MinkUNet18A",
    voxel_size: Annotated[float, typer.Option(help="Metres.")] = 0.02,
    teacher: Annotated[
        str | None,
        typer.Option(
            help=(
                "2D model whose text tower belongs to it [CLIP ViT-L/14@336 of"
                " 768 numbers a point, ViT-B/32 of 512]."
            )
        ),
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="What the text tower is asked of each class.")
    ] = "a {name} in a scene",
) -> None:
    r"""Convert a published network of OpenScene or 3DSS-VLG into a checkpoint,
    for vlg predict --checkpoint.

    Only tensors, texts and numbers are read of the file; one that holds
    anything else, or whose weights do not fit, is refused.

    Example::

      vlg convert openscene-network model_best.pth.tar \
          --out published.safetensors --class-set scannet-20
    """
    from vlg_lib.convert.openscene_network import (
        PublishedNetwork,
        convert_network,
    )

    settings = PublishedNetwork(
        class_set=class_set,
        classes=split_words(classes),
        architecture=architecture,
        voxel_size=voxel_size,
        prompt=prompts,
        teacher=teacher,
    )
    finish(convert_network(source, out, settings))


for other in (rgbd, scannet, s3dis, openscene_features, openscene_network):
    name = other.__name__.replace("_", "-")
    add_command(app, other, name, OTHER_CONVERTERS[name])


def finish(result: Result) -> None:
    """Print what was done. Exit status 1 where something failed."""
    typer.echo(result)
    if result.failed:
        raise typer.Exit(1)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between; ValueError for anything else."""
    words = split_words(text)
    if not all(word.isdecimal() for word in words):
        raise ValueError(
            f"expected whole numbers with commas between for {option}, found"
            f" {text!r}"
        )
    return tuple(int(word) for word in words)


def _numbers(option: str, text: str) -> tuple[float, ...] | None:
    """Numbers with commas between, None for none; ValueError for anything
    else.
    """
    try:
        return tuple(float(word) for word in split_words(text)) or None
    except ValueError as error:
        raise ValueError(
            f"expected numbers with commas between for {option}, found {text!r}"
        ) from error
