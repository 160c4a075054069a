"""7-Scenes."""

from collections.abc import Iterator
from pathlib import Path

import torch

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.data.frames import read_matrix
from vlg_lib.scene import Camera


def read_seven_scenes(folder: Path) -> Iterator[PosedImage]:
    """7-Scenes, a folder ``seq-XX``: camera-to-world matrices, depth in mm with
    65535 missing, the Kinect's own camera.

    The data set gives no calibration but "focal length 585, principal point
    (320, 240)" at 640 x 480.
    """
    for color in sorted(folder.glob("frame-*.color.png")):
        name = color.name.removesuffix(".color.png")
        matrix = folder / f"{name}.pose.txt"
        pose = (
            read_matrix(matrix)
            if matrix.is_file()
            else torch.full((4, 4), torch.nan, dtype=torch.float64)
        )
        yield PosedImage(
            name,
            color,
            folder / f"{name}.depth.png",
            Camera(585.0, 585.0, 320.0, 240.0, 640, 480),
            pose,
        )
