"""The reader of .sens streams: every number of files that the test wrote byte
by byte, and files cut anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scannet_files import (
    ALIGNMENT,
    COLOR_CAMERA,
    DEPTH_CAMERA,
    LOST,
    camera_matrix,
    floor_shots,
    pack_color,
    sens_bytes,
)

from vlg_lib.convert.sens import SensError, SensFile


class TestSens:
    @pytest.mark.parametrize("color_kind", ["raw", "png", "jpeg"])
    @pytest.mark.parametrize("depth_kind", ["raw_ushort", "zlib_ushort"])
    def test_what_was_written_is_read(self, tmp_path, color_kind, depth_kind):
        shots = floor_shots(3)
        shots[1] = (LOST, *shots[1][1:])
        stream = sens_bytes(
            shots,
            camera_matrix(COLOR_CAMERA),
            camera_matrix(DEPTH_CAMERA),
            color_kind=color_kind,
            depth_kind=depth_kind,
            depth_shift=500.0,
            extrinsic=ALIGNMENT,
        )
        (tmp_path / "a.sens").write_bytes(stream)
        with SensFile(tmp_path / "a.sens") as sens:
            assert (len(sens), sens.sensor, sens.depth_scale) == (
                3,
                "StructureSensor",
                500.0,
            )
            assert np.array_equal(
                sens.intrinsic_color.numpy(),
                camera_matrix(COLOR_CAMERA).astype(np.float32),
            )
            assert np.array_equal(
                sens.intrinsic_depth.numpy(),
                camera_matrix(DEPTH_CAMERA).astype(np.float32),
            )
            assert np.array_equal(
                sens.extrinsic_depth.numpy(), ALIGNMENT.astype(np.float32)
            )
            assert sens.color_times.tolist() == [1000, 1001, 1002]
            for index in (2, 0, 1, 2):  # any order
                pose, color, codes = shots[index]
                assert np.array_equal(
                    sens.poses[index].numpy(), pose.astype(np.float32)
                )
                assert np.array_equal(sens.depth_codes(index).numpy(), codes)
                expected = np.where(codes == 65535, 0, codes) / np.float32(500)
                assert np.allclose(
                    sens.depth(index).numpy(), expected, rtol=1e-7
                )
                if color_kind == "jpeg":
                    assert sens.color_bytes(index) == pack_color(color, "jpeg")
                    assert (
                        np.abs(
                            sens.color(index).numpy().astype(int) - color
                        ).max()
                        <= 6
                    )
                else:
                    assert np.array_equal(sens.color(index).numpy(), color)

    @pytest.mark.parametrize("imu", [None, 0, 7])
    def test_what_follows_the_frames_does_not_matter(self, tmp_path, imu):
        stream = sens_bytes(floor_shots(2), np.eye(4), np.eye(4), imu=imu)
        (tmp_path / "a.sens").write_bytes(stream)
        with SensFile(tmp_path / "a.sens") as sens:
            assert np.array_equal(
                sens.depth_codes(1).numpy(), floor_shots(2)[1][2]
            )

    @settings(max_examples=60, deadline=None)
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_a_file_cut_anywhere(self, tmp_path_factory, share):
        stream = sens_bytes(floor_shots(2), np.eye(4), np.eye(4), imu=None)
        path = tmp_path_factory.getbasetemp() / "cut.sens"
        path.write_bytes(stream[: int(share * len(stream))])
        with pytest.raises(
            SensError, match=r"cut\.sens: (cut short in|expected at most)"
        ):
            SensFile(path)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"version": 3}, "expected version 4, found 3"),
            ({"name": b"x" * 5000}, "at most 4096 bytes, found 5000"),
            (
                {"depth_shift": 0.0},
                "positive number of depth units a metre, found 0",
            ),
        ],
    )
    def test_files_of_another_form(self, tmp_path, options, message):
        (tmp_path / "a.sens").write_bytes(
            sens_bytes(floor_shots(1), np.eye(4), np.eye(4), **options)
        )
        with pytest.raises(SensError, match=message):
            SensFile(tmp_path / "a.sens")

    def test_images_that_do_not_fit(self, tmp_path):
        shots = floor_shots(3)
        shots[1] = (shots[1][0], shots[1][1][:10], shots[1][2][:, :7])
        (tmp_path / "a.sens").write_bytes(
            sens_bytes(shots, np.eye(4), np.eye(4))
        )
        with SensFile(tmp_path / "a.sens") as sens:
            with pytest.raises(
                SensError, match="expected 64 x 48 pixels, found"
            ):
                sens.color(1)
            with pytest.raises(
                SensError,
                match="expected 1536 bytes of depth in frame 1, found 336",
            ):
                sens.depth(1)
