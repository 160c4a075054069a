"""Malformed inputs for every parser of the library's own files: what it and
its converters write, and tensors of others.

See fuzz_parsers.py, whose list of parsers this one goes on.
"""

import io

# past the run-time type checks of the tests, which load a frame at random
from inspect import unwrap
from pathlib import Path

import torch
from fuzz_parsers import Parser
from PIL import Image
from small_scene import floor_frame

from vlg_lib.artifacts import StoreError, load_tensors, read_json, save_tensors
from vlg_lib.classes import ROOMS_12
from vlg_lib.convert.openscene_features import read_published
from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.data.embedding_files import read_fused, write_fused
from vlg_lib.data.frames import LayoutError, open_frames, read_color, read_depth
from vlg_lib.data.layout import read_point_labels, read_scene, write_scene
from vlg_lib.data.ply import PlyError
from vlg_lib.data.point_clouds import read_cloud
from vlg_lib.networks.openscene import _readings
from vlg_lib.scene import Camera, Frame, Scene

Errors = type[Exception] | tuple[type[Exception], ...]


def own_parsers(folder: Path) -> list[Parser]:
    """The parsers, with valid files made in ``folder``, which also holds what
    some read beside the file."""
    return [
        *_layout_parsers(folder / "own"),
        *_tensor_parsers(folder / "tensors"),
    ]


def _layout_parsers(root: Path) -> list[Parser]:
    """A scene folder, and the same one for each file of it that is broken."""
    camera = Camera(5.0, 5.0, 3.5, 2.5, 8, 6)
    views = [floor_frame(str(i), 0.2 * i, 0.0, 2.0, camera) for i in range(2)]
    points, colors = points_from_frames(views, 0.3)
    scene = Scene(
        "floor",
        points,
        colors,
        views,
        ROOMS_12,
        ROOMS_12.mask(["floor"]),
        superpoints=torch.arange(len(points)) // 3,
    )
    labels = torch.zeros(len(scene.points), dtype=torch.int64)

    def of(
        file: str, parse, error: Errors = LayoutError, name: str | None = None
    ) -> Parser:
        name = name or f"layout: {file}"
        folder = root / name.replace("/", "-")
        write_scene(folder, scene, point_labels=labels, provenance={})
        return Parser(
            name,
            [(folder / file).read_bytes()],
            lambda _: parse(folder),
            error,
            str(folder / file),
        )

    def frames(folder: Path) -> list[Frame]:
        return list(unwrap(open_frames)(folder)[0])

    return [
        of("scene.json", read_scene),
        of("points.ply", read_scene, (LayoutError, PlyError)),
        of("labels.ply", read_point_labels, (LayoutError, PlyError)),
        of("superpoints.safetensors", read_scene),
        of("intrinsic/intrinsic_color.txt", read_scene),
        of("pose/1.txt", frames),
        of("color/1.png", frames),
        of("depth/1.png", frames),
        Parser(
            "colour image",
            [_image("PNG"), _image("JPEG")],
            read_color,
            LayoutError,
            "color.png",
        ),
        of(
            "depth/0.png",
            lambda folder: read_depth(folder / "depth" / "0.png", 1000.0),
            name="depth image",
        ),
        of(
            "labels.ply",
            lambda folder: read_cloud(folder / "labels.ply"),
            PlyError,
            "PLY of any origin",
        ),
    ]


def _image(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(floor_frame("0", 0.0, 0.0, 2.0).color.numpy()).save(
        content, kind
    )
    return content.getvalue()


def _tensor_parsers(folder: Path) -> list[Parser]:
    """Stored tensors of this library (safetensors, JSON) and of others
    (.pt)."""
    folder.mkdir()
    save_tensors(
        folder / "a.safetensors",
        {"a": torch.arange(6.0).view(2, 3)},
        {"made": "here"},
    )
    write_fused(
        folder / "b.safetensors",
        [torch.ones(4, 3)],
        torch.ones(4, dtype=torch.int32),
        3,
    )
    published, weights = io.BytesIO(), io.BytesIO()
    mask = torch.tensor([True, False, True, True])
    torch.save({"mask_full": mask, "feat": torch.ones(3, 2).half()}, published)
    torch.save({"state_dict": {"final.kernel": torch.ones(2, 3)}}, weights)
    stored = [(folder / f"{name}.safetensors").read_bytes() for name in "ab"]
    return [
        Parser(
            "safetensors", stored[:1], load_tensors, StoreError, "c.safetensors"
        ),
        Parser(
            "fused embeddings",
            stored[1:],
            lambda path: read_fused(path, 4, 3),
            StoreError,
            "d.safetensors",
        ),
        Parser(
            "stored JSON",
            [b'[{"row": "a", "miou": 1.5}]\n'],
            read_json,
            StoreError,
            "e.json",
        ),
        Parser(
            "published embeddings",
            [published.getvalue()],
            lambda path: read_published(path.parent, "f", 4, 2),
            StoreError,
            str(folder / "f.pt"),
        ),
        Parser(
            "published network",
            [weights.getvalue()],
            _readings,
            StoreError,
            "g.pth",
        ),
    ]
