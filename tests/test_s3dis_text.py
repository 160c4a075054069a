"""The text files of S3DIS: usual lines as numpy reads them, other spellings,
known faults, lines that are no point."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlg_lib.convert import s3dis_text as s3dis_text
from vlg_lib.convert.s3dis_text import TextError, read_text


def written(tmp_path: Path, text: bytes) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(text)
    return path


class TestText:
    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(
                *[st.integers(-999_999, 9_999_999)] * 3,
                *[st.integers(0, 255)] * 3,
            ),
            min_size=1,
            max_size=30,
        ),
        last_newline=st.booleans(),
    )
    def test_every_usual_line_is_read_as_numpy_reads_it(
        self, tmp_path_factory, rows, last_newline
    ):
        lines = [
            f"{x / 1000:.3f} {y / 1000:.3f} {z / 1000:.3f} {r} {g} {b}"
            for x, y, z, r, g, b in rows
        ]
        text = ("\n".join(lines) + "\n" * last_newline).encode()
        path = written(tmp_path_factory.getbasetemp(), text)
        points, colors, fixed = read_text(path)
        expected = np.loadtxt(io.BytesIO(text), ndmin=2)
        assert np.array_equal(
            points.numpy(), expected[:, :3].astype(np.float32)
        )
        assert np.array_equal(colors.numpy(), expected[:, 3:])
        assert fixed == 0

    @settings(max_examples=60, deadline=None)
    @given(
        numbers=st.lists(
            st.floats(-500, 500, width=32), min_size=3, max_size=3
        ),
        form=st.sampled_from(
            ["{:.6f}", "{:.1f}", "{:.0f}", "{:e}", "+{:.3f}", "{!r}"]
        ),
        separator=st.sampled_from(
            [" ", "\t", "  ", " \t ", ", ", ";", "\x10", " \x00"]
        ),
        end=st.sampled_from(["\n", "\r\n", " \n", "\n\n"]),
    )
    def test_other_spellings_mean_the_same(
        self, tmp_path_factory, numbers, form, separator, end
    ):
        numbers = [
            abs(number) if form.startswith("+") else number
            for number in numbers
        ]
        words = [form.format(number) for number in numbers]
        lines = [
            "1.000 2.000 3.000 4 5 6",
            separator.join([*words, "7", "8.0", "255"]),
            "-0.001 0.000 9.999 0 10 100",
        ]
        points, colors, fixed = read_text(
            written(
                tmp_path_factory.getbasetemp(), (end.join(lines) + end).encode()
            )
        )
        assert points.tolist() == [
            [1, 2, 3],
            [float(np.float32(float(word))) for word in words],
            [float(np.float32(number)) for number in (-0.001, 0, 9.999)],
        ]
        assert colors.tolist() == [[4, 5, 6], [7, 8, 255], [0, 10, 100]]
        assert fixed == (separator in ("\x10", " \x00"))

    def test_the_known_fault_of_area_5(self, tmp_path):
        """A control character where a blank belongs, as in Area_5/hallway_6;
        and one within a number."""
        for line in (
            b"22.346 6.692 3.048 185\x10187 182",
            b"22.346 6.692 3.048 18\x105 187 182",
        ):
            points, colors, fixed = read_text(
                written(tmp_path, b"1.000 2.000 3.000 4 5 6\n" + line + b"\n")
            )
            assert colors.tolist() == [[4, 5, 6], [185, 187, 182]]
            assert points[1].tolist() == pytest.approx([22.346, 6.692, 3.048])
            assert fixed == 1

    @pytest.mark.parametrize(
        ("line", "point", "color"),
        [
            (b"19.302 -9.1\x160 1.785 146 137 106", -9.16, [146, 137, 106]),
            (b"19.302 -9.160 1.785 1\x146 137 106", -9.16, [146, 137, 106]),
            (b"19.302 -9\x0e160 1.785 146 137 106", -9.16, [146, 137, 106]),
            (b"19.302\x00-9.160 1.785 146 137 106", -9.16, [146, 137, 106]),
            (b"19.302 -9.160 1.785 103.0\x100000 2 3", -9.16, [103, 2, 3]),
            (b"19.302 -9.160 1.785 167.\x1000000 2 3", -9.16, [167, 2, 3]),
        ],
    )
    def test_a_control_character_is_what_lost_a_bit(
        self, tmp_path, line, point, color
    ):
        points, colors, fixed = read_text(written(tmp_path, line + b"\n"))
        assert points[0].tolist() == pytest.approx([19.302, point, 1.785])
        assert (colors[0].tolist(), fixed) == (color, 1)

    @pytest.mark.parametrize(
        "line",
        [
            b"1.000 2.000 3.000 4 5",
            b"1.000 2.000 3.000 4 5 6 7",
            b"1.000 2.000 3.000 4 5 256",
            b"a 2 3 4 5 6",
            b"1.000 2.000 3.000 -4 5 6",
            b"1.000 2.000 3.000 4.5 5 6",
            b"nan 2.000 3.000 4 5 6",
            b"1.000 inf 3.000 4 5 6",
            b"1e9 2.000 3.000 4 5 6",
            b"1_0 2.000 3.000 4 5 6",
            b"1.000 2.000 3.000 4 5 0x1",
            b"1.000 2.000 3.000 4 5 \xff",
            b"1.000 2.0.0 3.000 4 5 6",
            b"1.-00 2.000 3.000 4 5 6",
            b"--1.000 2.000 3.000 4 5 6",
            b". . . 1 2 3",
            b"1.000 2.000 3.0/0 4 5 6",
            b"1.000 2.000 3.000 4 5 /",
            b"1.000 2.000 3.000 4 5 :",
            b"1.00: 2.000 3.000 4 5 6",
        ],
    )
    def test_a_line_that_is_no_point_is_named(self, tmp_path, line):
        good = b"-15.609 39.505 2.214 71 61 55\n"
        with pytest.raises(
            TextError,
            match=r"a\.txt, line 20001: expected 'x y z red green blue'",
        ):
            read_text(
                written(tmp_path, good * 20_000 + line + b"\n" + good * 5)
            )

    def test_two_wrong_lines_do_not_make_a_right_one(self, tmp_path):
        with pytest.raises(TextError, match="line 1"):
            read_text(
                written(
                    tmp_path,
                    b"1.000 2.000 3.000 4 5\n6 1.000 2.000 3.000 4 5 6\n",
                )
            )

    def test_files_without_points(self, tmp_path):
        for text in (b"", b"\n \n"):
            with pytest.raises(
                TextError,
                match="expected lines 'x y z red green blue', found none",
            ):
                read_text(written(tmp_path, text))
        with pytest.raises(TextError, match="a line of more than"):
            read_text(written(tmp_path, b"1" * 10**6))
        with pytest.raises(TextError, match="no such file"):
            read_text(tmp_path / "b.txt")

    def test_the_fast_way_takes_usual_blocks_and_no_others(self):
        usual = b"-15.609 39.505 2.214 71 61 55\n"
        assert s3dis_text._parse_fast(usual * 3) is not None
        for other in (
            b"15.6090 39.505 2.214 71 61 55\n",
            b"-15.609 39.505 2.214 71 61 055555\n",
        ):
            assert s3dis_text._parse_fast(usual + other) is None
