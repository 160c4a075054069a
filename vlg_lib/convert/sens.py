"""Read ``.sens`` files, the streams of colour, depth and poses of ScanNet,
frame by frame.

The format is that of ScanNet's own tools (SensReader/README.md of
https://github.com/ScanNet/ScanNet), version 4, all numbers little-endian:
version, sensor name, four 4x4 matrices (intrinsics and extrinsics of colour and
of depth), how colour and depth are compressed, image sizes, depth units a
metre, the number of frames; then for each frame its camera-to-world pose, two
time stamps, two sizes in bytes, colour data, depth data; then, sometimes,
measurements of the inertial sensor, which are not read.

::

    with SensFile(Path("scene0000_00.sens")) as sens:
        for index in range(0, len(sens), 20):
            color, depth = sens.color(index), sens.depth(index)

Opening reads the header of each frame and none of the images; any frame is then
read and decoded alone.
"""

import io
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

_MATRICES = (
    "intrinsic_color",
    "extrinsic_color",
    "intrinsic_depth",
    "extrinsic_depth",
)
_HEADER = np.dtype(
    [(name, "<f4", (4, 4)) for name in _MATRICES]
    + [
        ("color_compression", "<i4"),
        ("depth_compression", "<i4"),
        ("color_width", "<u4"),
        ("color_height", "<u4"),
        ("depth_width", "<u4"),
        ("depth_height", "<u4"),
        ("depth_shift", "<f4"),
        ("frames", "<u8"),
    ]
)
_FRAME = np.dtype(
    [
        ("pose", "<f4", (4, 4)),
        ("color_time", "<u8"),
        ("depth_time", "<u8"),
        ("color_size", "<u8"),
        ("depth_size", "<u8"),
    ]
)
COLOR_COMPRESSION = {0: "raw", 1: "png", 2: "jpeg"}
DEPTH_COMPRESSION = {0: "raw_ushort", 1: "zlib_ushort"}
_LONGEST_NAME, _WIDEST, _LARGEST_CODE = 4096, 16384, 65535
_IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)


class SensError(ValueError):
    """A ``.sens`` file is missing, cut short or foreign; the message names the
    file and the fix.
    """


class SensFile:
    """An open ``.sens`` file: a header, the place of each frame, and its images
    when they are asked for.

    ``sensor``: its name. ``intrinsic_color``, ``extrinsic_color``,
    ``intrinsic_depth``, ``extrinsic_depth``: (4, 4) float64. ``color_size``,
    ``depth_size``: (height, width). ``depth_scale``: depth units a metre.
    ``poses``: (F, 4, 4) float64 camera-to-world, with -inf where tracking was
    lost. ``color_times``, ``depth_times``: (F,) microseconds. SensError where
    the file is not a whole ``.sens`` file of version 4.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise SensError(f"{path}: no such file")
        self._file = path.open("rb")
        try:
            self._size = path.stat().st_size
            self._read_header()
            self._read_index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SensFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def _read(self, count: int, what: str) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise SensError(
                f"{self.path}: cut short in {what} (the file has {self._size}"
                " bytes); download it again"
            )
        return data

    def _expect(self, good: bool, expected: str, found: object) -> None:
        if not good:
            raise SensError(
                f"{self.path}: expected {expected}, found {found}; not a .sens"
                " file, or a damaged one"
            )

    def _read_header(self) -> None:
        version = int.from_bytes(self._read(4, "the header"), "little")
        self._expect(version == 4, "version 4", version)
        length = int.from_bytes(self._read(8, "the header"), "little")
        self._expect(
            length <= _LONGEST_NAME,
            f"a sensor name of at most {_LONGEST_NAME} bytes",
            length,
        )
        name = self._read(length, "the header")
        self.sensor = name.decode("utf-8", errors="replace")
        (header,) = np.frombuffer(
            self._read(_HEADER.itemsize, "the header"), _HEADER
        )
        (
            self.intrinsic_color,
            self.extrinsic_color,
            self.intrinsic_depth,
            self.extrinsic_depth,
        ) = (
            torch.from_numpy(header[name].astype(np.float64))
            for name in _MATRICES
        )
        self._take_compression(header)
        self._take_sizes(header)
        self._frames = int(header["frames"])
        most = self._size // _FRAME.itemsize
        self._expect(
            self._frames <= most,
            f"at most {most} frames in {self._size} bytes",
            self._frames,
        )

    def _take_compression(self, header: np.void) -> None:
        """How the images of both kinds are packed."""
        color = int(header["color_compression"])
        self._expect(
            color in COLOR_COMPRESSION,
            f"colour compressed as one of {COLOR_COMPRESSION}",
            color,
        )
        self.color_compression = COLOR_COMPRESSION[color]
        depth = int(header["depth_compression"])
        self._expect(
            depth in DEPTH_COMPRESSION,
            f"depth compressed as one of {DEPTH_COMPRESSION}",
            depth,
        )
        self.depth_compression = DEPTH_COMPRESSION[depth]

    def _take_sizes(self, header: np.void) -> None:
        """The sizes of the images, and the unit of depth."""
        self.color_size, self.depth_size = (
            (int(header[f"{kind}_height"]), int(header[f"{kind}_width"]))
            for kind in ("color", "depth")
        )
        sizes = (*self.color_size, *self.depth_size)
        self._expect(
            all(1 <= size <= _WIDEST for size in sizes),
            f"image sizes from 1 to {_WIDEST} pixels",
            sizes,
        )
        self.depth_scale = float(header["depth_shift"])
        self._expect(
            0 < self.depth_scale < np.inf,
            "a positive number of depth units a metre",
            self.depth_scale,
        )

    def _read_index(self) -> None:
        """Find each frame by jumping from header to header."""
        index = np.zeros(self._frames, _FRAME)
        self._offsets = np.zeros(self._frames, np.int64)
        for i in range(self._frames):
            what = f"frame {i} of {self._frames}"
            index[i] = np.frombuffer(self._read(_FRAME.itemsize, what), _FRAME)[
                0
            ]
            self._offsets[i] = self._file.tell()
            end = (
                int(self._offsets[i])
                + int(index[i]["color_size"])
                + int(index[i]["depth_size"])
            )
            if end > self._size:
                raise SensError(
                    f"{self.path}: cut short in {what} (the file has"
                    f" {self._size} bytes, this frame ends at byte {end});"
                    " download it again"
                )
            self._file.seek(end)
        self.poses = torch.from_numpy(index["pose"].astype(np.float64))
        self.color_times, self.depth_times = (
            index["color_time"],
            index["depth_time"],
        )
        self._color_bytes, self._depth_bytes = (
            index["color_size"].astype(int),
            index["depth_size"].astype(int),
        )

    def color_bytes(self, index: int) -> bytes:
        """The colour data of a frame as they are stored."""
        self._file.seek(self._offsets[index])
        return self._read(
            int(self._color_bytes[index]), f"the colour of frame {index}"
        )

    def depth_bytes(self, index: int) -> bytes:
        """The depth data of a frame as they are stored."""
        self._file.seek(self._offsets[index] + self._color_bytes[index])
        return self._read(
            int(self._depth_bytes[index]), f"the depth of frame {index}"
        )

    def color(self, index: int) -> UInt8[Tensor, "height width 3"]:
        """The colour image of a frame, (height, width, 3) uint8; SensError
        naming the frame where it is damaged.
        """
        data, (height, width) = self.color_bytes(index), self.color_size
        if self.color_compression == "raw":
            self._expect(
                len(data) == height * width * 3,
                f"{height * width * 3} bytes of colour",
                len(data),
            )
            return torch.from_numpy(
                np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
            )
        try:
            with Image.open(
                io.BytesIO(data), formats=[self.color_compression]
            ) as image:
                self._expect(
                    image.size == (width, height),
                    f"{width} x {height} pixels",
                    image.size,
                )
                return torch.from_numpy(
                    np.array(
                        image if image.mode == "RGB" else image.convert("RGB")
                    )
                )
        except _IMAGE_ERRORS as error:
            if isinstance(error, SensError):
                raise
            raise SensError(
                f"{self.path}: the colour of frame {index} is damaged ({error})"
            ) from error

    def _codes(self, index: int) -> np.ndarray:
        """The depth image of a frame, (height, width) uint16, as stored;
        SensError where it is damaged.
        """
        data, (height, width) = self.depth_bytes(index), self.depth_size
        expected = height * width * 2
        if self.depth_compression == "zlib_ushort":
            try:
                # Never more than one image is unpacked, whatever the bytes say.
                data = zlib.decompressobj().decompress(data, expected + 1)
            except zlib.error as error:
                raise SensError(
                    f"{self.path}: the depth of frame {index} is damaged"
                    f" ({error})"
                ) from error
        self._expect(
            len(data) == expected,
            f"{expected} bytes of depth in frame {index}",
            len(data),
        )
        return np.frombuffer(data, "<u2").reshape(height, width)

    def depth_codes(self, index: int) -> Int[Tensor, "height width"]:
        """The depth image of a frame, (height, width) int32, as stored;
        SensError where it is damaged.
        """
        return torch.from_numpy(self._codes(index).astype(np.int32))

    def depth(self, index: int) -> Float[Tensor, "height width"]:
        """The depth image of a frame, (height, width) float32 metres; SensError
        where it is damaged.

        0 = missing, and so is the largest code (nothing measured, in some
        recordings).
        """
        codes = self._codes(index)
        depth = codes.astype(np.float32)
        depth /= np.float32(self.depth_scale)
        depth[codes == _LARGEST_CODE] = 0.0
        return torch.from_numpy(depth)
