"""A small scene with a known answer: cameras look straight down on a coloured
floor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlg_lib.classes import ROOMS_12, ClassSet
from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.scene import Camera, Frame, Scene

CAMERA = Camera(fx=20.0, fy=20.0, cx=15.5, cy=11.5, width=32, height=24)


def looking_down(x: float, y: float, height: float) -> torch.Tensor:
    """Camera-to-world of a camera at (x, y, height): right is +x, image down is
    -y, forward is -z."""
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    pose[:3, 3] = torch.tensor([x, y, height], dtype=torch.float64)
    return pose


def floor_color(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A smooth colour for each place on the floor (uint8)."""
    waves = [
        torch.sin(1.5 * x),
        torch.cos(1.1 * y + 0.3),
        torch.sin(0.7 * (x + y)),
    ]
    return (127 + 100 * torch.stack(waves, dim=-1)).to(torch.uint8)


def floor_frame(
    name: str, x: float, y: float, height: float, camera: Camera = CAMERA
) -> Frame:
    v, u = torch.meshgrid(
        torch.arange(camera.height), torch.arange(camera.width), indexing="ij"
    )
    across = x + (u - camera.cx) / camera.fx * height
    along = y - (v - camera.cy) / camera.fy * height
    depth = torch.full((camera.height, camera.width), height)
    return Frame(
        name,
        camera,
        looking_down(x, y, height),
        floor_color(across, along),
        depth,
    )


def floor_scene(
    frames: int = 4,
    class_set: ClassSet = ROOMS_12,
    labels: Sequence[str] = ("floor", "chair"),
) -> Scene:
    views = [floor_frame(str(i), 0.25 * i, 0.1 * i, 2.0) for i in range(frames)]
    points, colors = points_from_frames(views, 0.1)
    return Scene(
        "floor", points, colors, views, class_set, class_set.mask(labels)
    )


def write_rgbd(
    folder: Path, frames: Sequence[Frame], depth_scale: float = 1000.0
) -> Path:
    """Frames as a posed RGB-D folder, written without the library: the input of
    ``vlg convert rgbd``."""
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True)
    for frame in frames:
        Image.fromarray(frame.color.numpy()).save(
            folder / "images" / f"{frame.name}.png"
        )
        if frame.depth is not None:
            codes = np.rint(
                frame.depth.numpy().astype(np.float64) * depth_scale
            ).astype(np.uint16)
            Image.fromarray(codes).save(folder / "depth" / f"{frame.name}.png")
    np.savetxt(folder / "K.txt", frames[0].camera.matrix.numpy())
    np.savetxt(
        folder / "poses.txt",
        [frame.camera_to_world.numpy().ravel() for frame in frames],
    )
    return folder
