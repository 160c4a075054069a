"""The own-scan converter: conventions in, the library's layout out, checked on
a floor with a known answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from convert_command import vlg_convert
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_scene import (
    CAMERA,
    floor_color,
    floor_frame,
    looking_down,
    write_rgbd,
)

from vlg_lib.convert.formats.rgbd_folder import (
    ConvertedScene,
    RgbdSettings,
    convert_rgbd_folder,
    open_folder,
)
from vlg_lib.convert.registration import common_grid
from vlg_lib.data.frames import LayoutError
from vlg_lib.data.layout import read_manifest, read_scene
from vlg_lib.data.ply import write_points
from vlg_lib.geometry.cameras import project, resize_camera
from vlg_lib.geometry.upright import AXES, up_rotation
from vlg_lib.geometry.visibility import visible_points
from vlg_lib.scene import Camera


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rgbd(
        tmp_path / "source",
        [floor_frame(str(i), 0.2 * i, 0.1 * i, 2.0) for i in range(4)],
    )


def converted(source: Path, out: Path, **settings) -> None:
    chosen = RgbdSettings(
        class_set="rooms-12", scene_labels=("floor",), **settings
    )
    convert_rgbd_folder(source, out, chosen, progress=False)


class TestConvention:
    def test_the_floor_comes_out_as_it_went_in(self, source, tmp_path):
        converted(source, tmp_path / "out")
        scene = read_scene(tmp_path / "out")
        assert scene.frames.names == ("0", "1", "2", "3")
        assert scene.class_set.present(scene.scene_labels) == ("floor",)
        assert scene.points[:, 2].abs().max() < 1e-6
        assert torch.equal(scene.frames.poses[2], looking_down(0.4, 0.2, 2.0))
        expected = floor_color(scene.points[:, 0], scene.points[:, 1]).float()
        assert (scene.colors.float() - expected).abs().max() < 8

    def test_world_to_camera_poses_give_the_same_scene(self, source, tmp_path):
        converted(source, tmp_path / "a")
        poses = np.loadtxt(source / "poses.txt").reshape(-1, 4, 4)
        np.savetxt(source / "poses.txt", np.linalg.inv(poses).reshape(-1, 16))
        converted(source, tmp_path / "b", poses="world-to-camera")
        first, second = read_scene(tmp_path / "a"), read_scene(tmp_path / "b")
        assert torch.allclose(
            first.frames.poses, second.frames.poses, atol=1e-12
        )
        assert torch.allclose(first.points, second.points, atol=1e-5)

    def test_cameras_that_look_along_minus_z_give_the_same_scene(
        self, source, tmp_path
    ):
        converted(source, tmp_path / "a")
        poses = np.loadtxt(source / "poses.txt").reshape(-1, 4, 4)
        poses[:, :3, 1:3] *= -1
        np.savetxt(source / "poses.txt", poses.reshape(-1, 16))
        converted(source, tmp_path / "b", camera_axes="opengl")
        first, second = read_scene(tmp_path / "a"), read_scene(tmp_path / "b")
        assert torch.equal(first.frames.poses, second.frames.poses)
        assert torch.equal(first.points, second.points)

    def test_a_folder_of_pose_files_gives_the_same_scene(
        self, source, tmp_path
    ):
        converted(source, tmp_path / "a")
        (source / "poses").mkdir()
        for i, row in enumerate(np.loadtxt(source / "poses.txt")):
            np.savetxt(source / "poses" / f"{i}.txt", row.reshape(4, 4))
        converted(source, tmp_path / "b", pose_file="poses")
        assert torch.equal(
            read_scene(tmp_path / "a").frames.poses,
            read_scene(tmp_path / "b").frames.poses,
        )

    def test_intrinsics_of_four_rows(self, source, tmp_path):
        matrix = np.eye(4)
        matrix[:3, :3] = np.loadtxt(source / "K.txt")
        np.savetxt(source / "K.txt", matrix)
        converted(source, tmp_path / "a")
        assert read_scene(tmp_path / "a").frames[0].camera == CAMERA

    def test_depth_scale_and_codes(self, tmp_path):
        frame = floor_frame("0", 0.0, 0.0, 2.0)
        source = write_rgbd(tmp_path / "source", [frame], depth_scale=5000.0)
        codes = np.array(Image.open(source / "depth" / "0.png"))
        codes[0, :2] = 0, 60000
        Image.fromarray(codes).save(source / "depth" / "0.png")
        converted(
            source, tmp_path / "a", depth_scale=5000.0, depth_missing=(60000,)
        )
        depth = read_scene(tmp_path / "a").frames[0].depth
        assert depth[0, :2].tolist() == [0, 0]
        assert (depth.flatten()[2:] == 2.0).all()

    def test_the_order_of_the_images_may_be_listed(self, source, tmp_path):
        rows = (source / "poses.txt").read_text().splitlines()
        (source / "poses.txt").write_text("\n".join([rows[3], rows[1]]))
        (source / "frame_list.txt").write_text("3.png\n1.png\n")
        converted(source, tmp_path / "a")
        scene = read_scene(tmp_path / "a")
        assert scene.frames.names == ("1", "3")
        assert torch.allclose(
            scene.frames.poses[1], looking_down(0.6, 0.3, 2.0), atol=1e-12
        )

    def test_every_second_image(self, source, tmp_path):
        converted(source, tmp_path / "a", every=2)
        assert read_scene(tmp_path / "a").frames.names == ("0", "2")

    def test_a_given_cloud_is_used_and_turned(self, source, tmp_path):
        write_points(
            tmp_path / "cloud.ply",
            torch.tensor([[1.0, 2.0, 3.0]]),
            torch.tensor([[9, 8, 7]], dtype=torch.uint8),
        )
        converted(source, tmp_path / "a", up="y", cloud=tmp_path / "cloud.ply")
        scene = read_scene(tmp_path / "a")
        assert scene.points.tolist() == [[3.0, 1.0, 2.0]]
        assert scene.colors.tolist() == [[9, 8, 7]]


class TestUp:
    @pytest.mark.parametrize("up", AXES)
    def test_points_and_poses_turn_together(self, source, tmp_path, up):
        """A world with another axis up, described as such, gives the scene of
        the world with z up."""
        poses = torch.from_numpy(
            np.loadtxt(source / "poses.txt").reshape(-1, 4, 4)
        )
        np.savetxt(
            source / "poses.txt",
            (up_rotation(up).T @ poses).reshape(-1, 16).numpy(),
        )
        converted(source, tmp_path / "a", up=up)
        scene = read_scene(tmp_path / "a")
        assert scene.points[:, 2].abs().max() < 1e-6
        assert torch.allclose(scene.frames.poses, poses, atol=1e-12)
        for frame in scene.frames:
            assert len(visible_points(scene.points, frame)) > 500


class TestOneGrid:
    @settings(max_examples=50, deadline=None)
    @given(sizes=st.tuples(*[st.integers(2, 300)] * 4))
    def test_a_mere_resize_keeps_the_whole_image(self, sizes):
        width, height, depth_width, depth_height = sizes
        camera = Camera(
            1.1 * width,
            1.2 * height,
            0.47 * width,
            0.52 * height,
            width,
            height,
        )
        depth = resize_camera(camera, depth_width, depth_height)
        grid = common_grid(camera, depth)
        assert grid.camera == depth
        assert grid.color_box == pytest.approx((0, 0, width, height))

    def test_by_hand(self):
        """A depth image wider than the colour image: its outer pixels see what
        no colour pixel sees."""
        color = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)
        depth = Camera(50.0, 50.0, 39.5, 29.5, 80, 60)
        grid = common_grid(color, depth)
        # 100 colour pixels at twice the focal length cover 50 x 40 depth pixels
        # in the middle.
        assert (grid.depth_left, grid.depth_top) == (15, 10)
        assert grid.camera == Camera(50.0, 50.0, 24.5, 19.5, 50, 40)
        assert grid.color_box == pytest.approx((0, 0, 100, 80))

    def test_a_depth_image_that_sees_less_cuts_the_colour_image(self):
        color = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)
        depth = Camera(200.0, 200.0, 49.5, 39.5, 100, 80)
        grid = common_grid(color, depth)
        assert grid.camera == depth
        assert grid.color_box == pytest.approx((25, 20, 75, 60))

    def test_cameras_that_look_past_each_other(self):
        with pytest.raises(ValueError, match="share no pixel"):
            common_grid(
                Camera(100.0, 100.0, 49.5, 39.5, 100, 80),
                Camera(100.0, 100.0, 500.0, 39.5, 100, 80),
            )

    @pytest.mark.parametrize("size", [(16, 12), (64, 48), (40, 24)])
    def test_colour_lands_on_the_pixels_of_depth(self, tmp_path, size):
        """Whatever the size of the depth image, colour at a pixel is the
        floor's colour where that pixel looks."""
        color_camera = Camera(100.0, 100.0, 79.5, 59.5, 160, 120)
        depth_camera = resize_camera(color_camera, *size)
        frame = floor_frame("0", 0.3, 0.2, 2.0, color_camera)
        depth = floor_frame("0", 0.3, 0.2, 2.0, depth_camera)
        source = write_rgbd(tmp_path / "source", [frame])
        codes = (depth.depth.numpy() * 1000).astype(np.uint16)
        Image.fromarray(codes).save(source / "depth" / "0.png")
        converted(source, tmp_path / "a")
        out = read_scene(tmp_path / "a").frames[0]
        assert out.camera == depth_camera
        # the filter is one-sided at the border
        inner = (slice(1, -1), slice(1, -1))
        assert (out.color.float() - depth.color.float())[inner].abs().max() <= 3

    def test_other_intrinsics_for_depth(self, tmp_path):
        depth_camera = Camera(40.0, 40.0, 35.0, 25.0, 60, 44)
        color_camera = Camera(100.0, 100.0, 79.5, 59.5, 160, 120)
        frame = floor_frame("0", 0.3, 0.2, 2.0, color_camera)
        source = write_rgbd(tmp_path / "source", [frame])
        codes = np.full((44, 60), 2000, np.uint16)
        codes[20, 30] = 1000
        Image.fromarray(codes).save(source / "depth" / "0.png")
        np.savetxt(source / "D.txt", depth_camera.matrix.numpy())
        converted(source, tmp_path / "a", depth_intrinsics="D.txt")
        out = read_scene(tmp_path / "a").frames[0]
        expected = floor_frame("0", 0.3, 0.2, 2.0, out.camera)
        assert (out.camera.fx, out.camera.cx - depth_camera.cx) == (40.0, -4.0)
        near = (out.depth == 1.0).nonzero().tolist()
        assert near == [[20 + round(out.camera.cy - depth_camera.cy), 30 - 4]]
        assert (out.color.float() - expected.color.float())[
            1:-1, 1:-1
        ].abs().max() <= 3
        floor = read_scene(tmp_path / "a").points
        pixels, _ = project(floor, out.camera, out.camera_to_world)
        assert pixels.min() > -0.5


class TestSkipped:
    def test_frames_that_cannot_be_used_are_counted(self, source, tmp_path):
        (source / "images" / "0.png").write_bytes(b"no image")
        (source / "depth" / "1.png").unlink()
        poses = np.loadtxt(source / "poses.txt")
        poses[2] = -np.inf
        np.savetxt(source / "poses.txt", poses)
        converted(source, tmp_path / "a")
        scene = read_scene(tmp_path / "a")
        assert scene.skipped == {
            "unreadable image": 1,
            "missing depth": 1,
            "invalid pose": 1,
        }
        assert scene.frames.names == ("3",)

    def test_other_reasons(self, source, tmp_path):
        (source / "frame_list.txt").write_text("0.png\n1.png\n2.png\n9.png\n")
        (source / "depth" / "1.png").write_bytes(b"")
        (source / "poses").mkdir()
        for name in ("0", "1", "9"):
            np.savetxt(
                source / "poses" / f"{name}.txt", looking_down(0.0, 0.0, 2.0)
            )
        frames = open_folder(source, RgbdSettings(pose_file="poses"))
        assert frames.skipped == {
            "missing image": 1,
            "unreadable depth": 1,
            "missing pose": 1,
        }

    def test_no_frame_left(self, source, tmp_path):
        np.savetxt(source / "poses.txt", np.full((4, 16), np.nan))
        with pytest.raises(
            LayoutError,
            match=r"none of its frames can be used \(4 x invalid pose\)",
        ):
            converted(source, tmp_path / "a")
        assert not (tmp_path / "a").exists()


class TestErrors:
    def fails(self, source, tmp_path, message, **settings):
        with pytest.raises(LayoutError, match=message):
            converted(source, tmp_path / "a", **settings)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    def test_poses_that_do_not_fit_the_images(self, source, tmp_path):
        np.savetxt(source / "poses.txt", np.loadtxt(source / "poses.txt")[:3])
        self.fails(
            source,
            tmp_path,
            r"poses\.txt: expected 4 rows of 16 numbers, .* found 3 rows of 16;"
            r" .*frame_list",
        )

    def test_rows_of_another_length(self, source, tmp_path):
        np.savetxt(
            source / "poses.txt", np.loadtxt(source / "poses.txt")[:, :12]
        )
        self.fails(
            source,
            tmp_path,
            r"poses\.txt: expected 4 rows of 16 numbers, .* found 4 rows of 12",
        )

    def test_no_poses(self, source, tmp_path):
        (source / "poses.txt").unlink()
        self.fails(source, tmp_path, r"poses\.txt: no such file")

    @pytest.mark.parametrize(
        "matrix", [np.eye(2), np.zeros((3, 3)), np.full((3, 3), np.nan)]
    )
    def test_intrinsics_that_are_none(self, source, tmp_path, matrix):
        np.savetxt(source / "K.txt", matrix)
        self.fails(source, tmp_path, r"K\.txt: ")

    def test_images_of_two_sizes(self, source, tmp_path):
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(
            source / "images" / "2.png"
        )
        self.fails(
            source,
            tmp_path,
            r"2\.png: expected \(height, width\) \(24, 32\) like 0\.png, found"
            r" \(12, 16\)",
        )

    def test_depth_images_of_two_sizes(self, source, tmp_path):
        Image.fromarray(np.zeros((12, 16), np.uint16)).save(
            source / "depth" / "2.png"
        )
        self.fails(
            source,
            tmp_path,
            r"depth/2\.png: expected \(height, width\) \(24, 32\) like 0\.png,"
            r" found \(12, 16\)",
        )

    def test_depth_of_eight_bits(self, source, tmp_path):
        for path in (source / "depth").iterdir():
            Image.fromarray(np.full((24, 32), 200, np.uint8)).save(path)
        self.fails(source, tmp_path, r"expected a 16-bit grey image")

    def test_no_images(self, source, tmp_path):
        self.fails(
            source,
            tmp_path,
            r"source/rgb: expected PNG or JPEG images, found none; .*--images",
            images="rgb",
        )

    def test_no_depth_and_no_cloud(self, source, tmp_path):
        self.fails(
            source,
            tmp_path,
            r"source/range: no such folder; .*--cloud",
            depth="range",
        )

    def test_no_depth_at_any_pixel(self, source, tmp_path):
        for path in (source / "depth").iterdir():
            Image.fromarray(np.zeros((24, 32), np.uint16)).save(path)
        with pytest.raises(
            ValueError, match=r"no pixel of any frame has depth: .*depth scale"
        ):
            converted(source, tmp_path / "a")
        assert not (tmp_path / "a").exists()

    def test_a_label_outside_the_class_set(self, source, tmp_path):
        with pytest.raises(
            ValueError,
            match=(
                "unknown class 'sofabed' in class set 'own'; known: floor, sofa"
            ),
        ):
            convert_rgbd_folder(
                source,
                tmp_path / "a",
                RgbdSettings(
                    classes=("floor", "sofa"), scene_labels=("sofabed",)
                ),
            )
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize(
        "settings", [{"depth_scale": 0.0}, {"depth_scale": -1.0}, {"every": 0}]
    )
    def test_settings_that_make_no_sense(self, settings):
        with pytest.raises(ValueError, match="must be positive"):
            RgbdSettings(**settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"poses": "to-camera"},
                "--poses to be one of camera-to-world, world-to-camera, found"
                " 'to-camera'",
            ),
            ({"camera_axes": "gl"}, "--camera-axes to be one of opencv"),
            ({"up": "w"}, "--up to be one of x, y, z"),
            ({"points": "mesh"}, "--points to be one of average, tsdf"),
        ],
    )
    def test_words_that_are_no_choice(self, settings, message):
        with pytest.raises(ValueError, match=message):
            RgbdSettings(**settings)


class TestFunction:
    def run(self, source, out, **settings) -> ConvertedScene:
        return convert_rgbd_folder(
            source, out, RgbdSettings(**settings), progress=False
        )

    def test_a_scan_with_ones_own_classes(self, source, tmp_path):
        result = self.run(
            source,
            tmp_path / "a",
            classes=("floor", "plant pot"),
            scene_labels=("plant pot",),
        )
        assert result.failed == {}
        assert "4 frames; left out: none" in str(result)
        scene = read_scene(tmp_path / "a")
        assert scene.class_set.names == ("floor", "plant pot")
        assert scene.class_set.present(scene.scene_labels) == ("plant pot",)

    def test_every_setting_reaches_the_converter(self, source, tmp_path):
        poses = np.loadtxt(source / "poses.txt").reshape(-1, 4, 4)
        poses[:, :3, 1:3] *= -1
        poses = np.linalg.inv(up_rotation("-y").T.numpy() @ poses)
        (source / "rgb").mkdir()
        (source / "range").mkdir()
        for name in ("0", "1", "2", "3"):
            (source / "images" / f"{name}.png").rename(
                source / "rgb" / f"{name}.png"
            )
            codes = np.array(Image.open(source / "depth" / f"{name}.png")) // 2
            codes[0, 0] = 7
            Image.fromarray(codes).save(source / "range" / f"{name}.png")
        np.savetxt(source / "t.txt", poses.reshape(-1, 16))
        (source / "K.txt").rename(source / "cam.txt")
        result = self.run(
            source,
            tmp_path / "a",
            images="rgb",
            depth="range",
            intrinsics="cam.txt",
            depth_intrinsics="cam.txt",
            pose_file="t.txt",
            poses="world-to-camera",
            up="-y",
            camera_axes="opengl",
            depth_scale=500.0,
            depth_missing=(0, 7),
            every=3,
            cell=0.2,
            class_set="s3dis-13",
        )
        scene = read_scene(tmp_path / "a")
        assert scene.class_set.name == "s3dis-13"
        assert scene.frames.names == ("0", "3")
        assert torch.allclose(
            scene.frames[1].camera_to_world,
            looking_down(0.6, 0.3, 2.0),
            atol=1e-9,
        )
        assert scene.frames[0].depth[0, 0] == 0
        assert scene.points[:, 2].abs().max() < 1e-6
        assert "no scene labels given" in str(result)

    def test_an_error_leaves_no_scene(self, source, tmp_path):
        (source / "K.txt").write_text("1 2\n")
        with pytest.raises(
            LayoutError,
            match=r"K\.txt: expected a 3x3 or 4x4 intrinsics matrix",
        ):
            self.run(source, tmp_path / "a")
        assert not (tmp_path / "a").exists()

    def test_what_is_said_of_the_source(self, source, tmp_path):
        result = self.run(source, tmp_path / "a")
        facts = read_manifest(tmp_path / "a")["provenance"]
        assert facts == {
            "converter": "vlg convert rgbd",
            "source": "source",
            "poses": "camera-to-world",
            "camera_axes": "opencv",
            "up": "z",
            "points": "average of depth, cells of 0.04 m",
        }
        assert str(result).splitlines()[0].startswith(f"{tmp_path / 'a'}: ")
        # the cameras look straight down
        assert "is --up right?" in str(result)

    def test_an_image_that_does_not_decode_costs_a_frame(
        self, source, tmp_path
    ):
        """Its header is whole, so that only decoding tells."""
        path = source / "images" / "2.jpg"
        Image.open(source / "images" / "2.png").save(path, quality=95)
        (source / "images" / "2.png").unlink()
        path.write_bytes(path.read_bytes()[:-200])
        self.run(source, tmp_path / "a")
        scene = read_scene(tmp_path / "a")
        assert scene.frames.names == ("0", "1", "3")
        assert scene.skipped == {"unreadable image": 1}


class TestCommand:
    def test_an_error_is_one_line_and_no_scene(self, source, tmp_path):
        (source / "K.txt").write_text("1 2\n")
        result = vlg_convert("rgbd", source, "--out", tmp_path / "a")
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert "K.txt: expected a 3x3 or 4x4 intrinsics matrix" in result.output
        assert not (tmp_path / "a").exists()

    def test_help_names_the_choices(self):
        output = vlg_convert("rgbd", "--help").output
        assert "camera-to-world" in output
        assert "--depth-scale" in output
