"""PLY files as programs in use write them: what is of no matter for the points
must not keep them from being read."""

import struct

import numpy as np
import pytest

from vlg_lib.data.ply import PlyError, read_points
from vlg_lib.data.point_clouds import read_cloud

ROWS = [(0.5, 0, 0, 1, 2, 3), (1, 1, -2, 4, 5, 6)]
POINTS = [list(row[:3]) for row in ROWS]
COLORS = [list(row[3:]) for row in ROWS]
PROPERTIES = [
    *(f"float {axis}" for axis in "xyz"),
    *(f"uchar {name}" for name in ("red", "green", "blue")),
]


def header(kind="ascii", before=(), properties=PROPERTIES, line_end="\n"):
    lines = [
        "ply",
        f"format {kind} 1.0",
        *before,
        "element vertex 2",
        *(f"property {each}" for each in properties),
        "end_header",
        "",
    ]
    return line_end.join(lines)


def text(rows=ROWS):
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def assert_read(path):
    """Both readers, the strict and the tolerant one, find the two points."""
    points, colors, _ = read_points(path)
    assert (points.tolist(), colors.tolist()) == (POINTS, COLORS)
    cloud = read_cloud(path)
    assert cloud.positions().tolist() == POINTS
    assert cloud.colors.tolist() == COLORS


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
@pytest.mark.parametrize("word", ["comment", "obj_info"])
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_letters_beyond_ascii(tmp_path, encoding, word, kind):
    head = header(kind, before=[f"{word} Büro"]).encode(encoding)
    body = text().encode()
    if kind != "ascii":
        body = b"".join(struct.pack("<fffBBB", *row) for row in ROWS)
    (tmp_path / "a.ply").write_bytes(head + body)
    assert_read(tmp_path / "a.ply")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_a_byte_order_mark_before_the_first_line(tmp_path, kind):
    body = text().encode()
    if kind != "ascii":
        body = b"".join(struct.pack("<fffBBB", *row) for row in ROWS)
    head = header(kind).encode()
    (tmp_path / "a.ply").write_bytes(b"\xef\xbb\xbf" + head + body)
    assert_read(tmp_path / "a.ply")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_after_the_header(tmp_path, line_end):
    head = header(line_end=line_end).encode()
    (tmp_path / "a.ply").write_bytes(head + b"\xef\xbb\xbf" + text().encode())
    assert_read(tmp_path / "a.ply")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_two_numbers_of_one_name(tmp_path, kind):
    """The first keeps its name; CloudCompare writes such files."""
    properties = [*PROPERTIES, "float scalar_C2C", "float scalar_C2C"]
    rows = [(*row, 7.5, 8.5) for row in ROWS]
    body = text(rows).encode()
    if kind != "ascii":
        body = b"".join(struct.pack("<fffBBBff", *row) for row in rows)
    head = header(kind, properties=properties).encode()
    (tmp_path / "a.ply").write_bytes(head + body)
    assert_read(tmp_path / "a.ply")
    further = read_points(tmp_path / "a.ply")[2]
    assert further.pop("scalar_C2C").tolist() == [7.5, 7.5]
    assert [values.tolist() for values in further.values()] == [[8.5, 8.5]]


def test_whole_numbers_with_a_point(tmp_path):
    rows = [(*row[:3], *map(float, row[3:])) for row in ROWS]
    assert "1.0 2.0 3.0" in text(rows)
    (tmp_path / "a.ply").write_text(header() + text(rows))
    assert_read(tmp_path / "a.ply")


@pytest.mark.parametrize("wrong", [1.5, 256.0, -1.0])
def test_numbers_that_are_not_of_the_declared_type(tmp_path, wrong):
    rows = [ROWS[0], (*ROWS[1][:5], wrong)]
    (tmp_path / "a.ply").write_text(header() + text(rows))
    with pytest.raises(
        PlyError, match=f"'blue' .* from 0 to 255, .* {wrong:g}"
    ):
        read_points(tmp_path / "a.ply")


def test_names_in_upper_case(tmp_path):
    properties = [
        *(f"float {axis}" for axis in "XYZ"),
        *(f"uchar {name}" for name in ("Red", "Green", "Blue")),
    ]
    (tmp_path / "a.ply").write_text(header(properties=properties) + text())
    assert_read(tmp_path / "a.ply")


def test_a_name_in_both_cases_is_two(tmp_path):
    rows = [(*row, 9) for row in ROWS]
    (tmp_path / "a.ply").write_text(
        header(properties=[*PROPERTIES, "float X"]) + text(rows)
    )
    assert_read(tmp_path / "a.ply")
    assert read_points(tmp_path / "a.ply")[2]["X"].tolist() == [9, 9]


@pytest.mark.parametrize(
    ("kind", "name", "of_bits"),
    [
        ("uint", "rgba", lambda bits: struct.pack("<I", bits)),
        ("float", "rgb", lambda bits: struct.pack("<I", bits)),
        ("int", "rgba", lambda bits: struct.pack("<I", bits)),
    ],
)
def test_a_colour_in_one_number(tmp_path, kind, name, of_bits):
    """As PCL writes it: alpha, red, green, blue from the highest byte on."""
    properties = [*PROPERTIES[:3], f"{kind} {name}"]
    body = b"".join(
        struct.pack("<fff", *row[:3])
        + of_bits(255 << 24 | row[3] << 16 | row[4] << 8 | row[5])
        for row in ROWS
    )
    if kind == "float":
        body = b"".join(
            struct.pack("<fff", *row[:3])
            + of_bits(row[3] << 16 | row[4] << 8 | row[5])
            for row in ROWS
        )
    head = header("binary_little_endian", properties=properties).encode()
    (tmp_path / "a.ply").write_bytes(head + body)
    assert_read(tmp_path / "a.ply")


def test_gaussian_splats_are_told_as_such(tmp_path):
    properties = [*PROPERTIES[:3], *(f"float f_dc_{i}" for i in range(3))]
    (tmp_path / "a.ply").write_text(header(properties=properties) + text())
    for read in (read_points, read_cloud):
        with pytest.raises(PlyError, match="Gaussian splats") as error:
            read(tmp_path / "a.ply")
        assert "--no-color" not in str(error.value)


def test_a_mapped_file_keeps_its_numbers(tmp_path):
    """Nothing but the header is changed, whatever the body looks like."""
    rows = np.frombuffer(b"property uchar X\n" * 60, np.uint8)
    rows = rows[: len(rows) // 15 * 15].reshape(-1, 15).copy()
    rows[:, :12] = np.float32([1.0, 2.0, 3.0]).view(np.uint8)
    head = header("binary_little_endian").replace(
        "vertex 2", f"vertex {len(rows)}"
    )
    (tmp_path / "a.ply").write_bytes(head.encode() + rows.tobytes())
    assert read_points(tmp_path / "a.ply")[1].tolist() == rows[:, 12:].tolist()
