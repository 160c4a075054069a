"""7-Scenes, Microsoft's data set of rooms recorded with a Kinect."""

from collections.abc import Iterator
from pathlib import Path

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.data.frames import read_matrix
from vlg_lib.geometry.poses import unknown_pose
from vlg_lib.scene import Camera

KINECT = Camera(585.0, 585.0, 320.0, 240.0, 640, 480)
"""The data set gives no calibration but "focal length 585, principal point
(320, 240)" at 640 x 480."""


def read_seven_scenes(folder: Path) -> Iterator[PosedImage]:
    """7-Scenes, a folder ``seq-XX``: camera-to-world matrices, camera axes
    right, down, forward, depth in mm with 65535 missing, KINECT as camera.
    """
    for color in sorted(folder.glob("frame-*.color.png")):
        name = color.name.removesuffix(".color.png")
        matrix = folder / f"{name}.pose.txt"
        yield PosedImage(
            name,
            color,
            folder / f"{name}.depth.png",
            KINECT,
            read_matrix(matrix) if matrix.is_file() else unknown_pose(),
        )
