"""Damaged files of foreign formats, 500 a format: a reader gives images, or a
LayoutError that names the file, or leaves an image out and says why."""

from itertools import islice
from pathlib import Path

import foreign_files
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vlg_lib.convert.formats.base import LeftOut
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.data.frames import LayoutError
from vlg_lib.scene import Camera, Frame

CAMERA = Camera(6.0, 6.0, 3.5, 2.5, 8, 6)
FILES = {
    "tum lists": ("tum", foreign_files.write_tum, "rgb.txt"),
    "tum poses": ("tum", foreign_files.write_tum, "groundtruth.txt"),
    "7-scenes": (
        "7-scenes",
        foreign_files.write_seven_scenes,
        "frame-000001.pose.txt",
    ),
    "replica poses": ("replica", foreign_files.write_replica, "traj.txt"),
    "replica camera": (
        "replica",
        foreign_files.write_replica,
        "../cam_params.json",
    ),
    "open3d log": ("open3d", foreign_files.write_open3d_log, "trajectory.log"),
    "open3d camera": (
        "open3d",
        foreign_files.write_open3d_log,
        "intrinsic.json",
    ),
    "open3d json": (
        "open3d",
        foreign_files.write_open3d_json,
        "trajectory.json",
    ),
    "record3d": ("record3d", foreign_files.write_record3d, "metadata.json"),
    "polycam": (
        "polycam",
        foreign_files.write_polycam,
        "keyframes/cameras/262195552089.json",
    ),
    "arkitscenes poses": (
        "arkitscenes",
        foreign_files.write_arkitscenes,
        "41254925_frames/lowres_wide.traj",
    ),
    "arkitscenes cameras": (
        "arkitscenes",
        foreign_files.write_arkitscenes,
        "41254925_frames/lowres_wide_intrinsics/41254925_3244.222.pincam",
    ),
    "nerfstudio": (
        "nerfstudio",
        foreign_files.write_nerfstudio,
        "transforms.json",
    ),
    "colmap cameras": (
        "colmap",
        foreign_files.write_colmap,
        "sparse/0/cameras.txt",
    ),
    "colmap images": (
        "colmap",
        foreign_files.write_colmap,
        "sparse/0/images.txt",
    ),
    "colmap points": (
        "colmap",
        foreign_files.write_colmap,
        "sparse/0/points3D.txt",
    ),
    "colmap binary cameras": (
        "colmap",
        foreign_files.write_colmap_binary,
        "sparse/0/cameras.bin",
    ),
    "colmap binary images": (
        "colmap",
        foreign_files.write_colmap_binary,
        "sparse/0/images.bin",
    ),
    "colmap binary points": (
        "colmap",
        foreign_files.write_colmap_binary,
        "sparse/0/points3D.bin",
    ),
    "info.txt": ("7-scenes", foreign_files.write_bundlefusion, "info.txt"),
    "calibration.txt": ("tum", foreign_files.write_eth3d, "calibration.txt"),
}
OF_ONE_IMAGE = ("7-scenes", "polycam", "arkitscenes cameras")
WORDS = [
    *(
        b"nan",
        b"inf",
        b"-1",
        b"0",
        b"1e999",
        b"1" * 400,
        b"null",
        b"{}",
        b"[]",
        b'""',
        b"true",
        b"\n",
        b" ",
        b"#",
    ),
    *(b"\xff", b"\0", b"..", b"/", b'"frames": 3,', b"[" * 2000),
]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 12),
        st.sampled_from(WORDS) | st.binary(max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """At each place (a share of the length), some bytes taken out and others
    put in; 12 bytes stand for the rest."""
    for place, count, inserted in edits:
        at = int(place * len(content))
        content = (
            content[:at]
            + inserted
            + (b"" if count == 12 else content[at + count :])
        )
    return content


def two_frames() -> list[Frame]:
    frames = []
    for i in range(2):
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = 0.5 * i
        frames.append(
            Frame(
                str(i),
                CAMERA,
                pose,
                torch.zeros(6, 8, 3, dtype=torch.uint8),
                torch.ones(6, 8),
            )
        )
    return frames


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    frames = two_frames()
    for name, (_, write, _) in FILES.items():
        (root / name / "scan").mkdir(parents=True)
        write(root / name / "scan", frames)
    return root


@pytest.mark.parametrize("which", FILES)
def test_damaged_files_end_in_a_layout_error_or_images(scans, which):
    name, _, file = FILES[which]
    folder, path = scans / which / "scan", scans / which / "scan" / file
    whole, outcomes = path.read_bytes(), set()

    share = sum(other == name for other, *_ in FILES.values())

    @settings(
        max_examples=500 // share,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(edits=EDITS)
    @example(edits=[(0.0, 12, b"")])
    @example(edits=[(0.5, 12, b"")])
    @example(edits=[(0.0, 0, b"")])
    def read(edits) -> None:
        path.write_bytes(damaged(whole, edits))
        try:
            images = list(islice(FORMATS[name].read(folder), 100))
            if name == "colmap":
                FORMATS[name].points(folder)
        except LayoutError as error:
            outcomes.add(
                "refused"
                if str(scans) in str(error)
                else f"names no file: {error}"
            )
        else:
            for image in images:
                if isinstance(image, LeftOut):
                    outcomes.add("left out")
                    assert image.reason
                    assert str(scans) in image.what
                else:
                    assert image.camera.width > 0
                    assert image.pose.ndim == 2
            outcomes.add("read")

    try:
        read()
    finally:
        path.write_bytes(whole)
    # a file of one image costs this image, one of all of them may cost the scan
    assert outcomes - {"left out"} == (
        {"read"} if which in OF_ONE_IMAGE else {"refused", "read"}
    )
    assert "left out" in outcomes or which not in OF_ONE_IMAGE
