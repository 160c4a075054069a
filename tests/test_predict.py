"""predict: any coloured cloud in, a label for every row out, and clear words
about everything else."""

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from typer.testing import CliRunner

from vlg_lib.artifacts import StoreError, load_tensors, save_tensors
from vlg_lib.classes import ROOMS_12
from vlg_lib.cli import app, main
from vlg_lib.data.ply import PlyError
from vlg_lib.data.point_clouds import (
    UNITS,
    as_bytes,
    read_cloud,
    units_factor,
)
from vlg_lib.geometry.upright import AXES, up_rotation
from vlg_lib.geometry.voxels import voxelize
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    load_network,
    point_scores,
    save_network,
)
from vlg_lib.networks.tiling import Question, label_points, tiles
from vlg_lib.own_scan.predict import (
    PredictionSettings,
    choose_classes,
    predict,
)
from vlg_lib.superpoints import SuperpointSettings, superpoints
from vlg_lib.vision_language import create_model

RGB = ("red", "green", "blue")
CLASS_SET = {"name": "rooms-12", "names": list(ROOMS_12.names)}
ABOUT = {
    "class_set": CLASS_SET,
    "teacher": "small-attributes",
    "prompt_template": "a {name}",
}


def room(count: int = 400, seed: int = 0):
    """A cloud of (count, 3) float32 metres and (count, 3) uint8 colours."""
    generator = np.random.default_rng(seed)
    return (
        (generator.random((count, 3)) * [3.0, 2.5, 2.0]).astype(np.float32),
        generator.integers(0, 256, (count, 3)).astype(np.uint8),
    )


def write(
    path: Path,
    points,
    colors=None,
    *,
    names=RGB,
    text=False,
    order="<",
    comments=(),
) -> Path:
    """A PLY file written without the library, with columns of the arrays' own
    types."""
    columns = dict(zip("xyz", points.T, strict=True))
    if colors is not None:
        columns |= dict(zip(names, colors.T, strict=True))
    vertices = np.empty(
        len(points), [(name, column.dtype) for name, column in columns.items()]
    )
    for name, column in columns.items():
        vertices[name] = column
    PlyData(
        [PlyElement.describe(vertices, "vertex")],
        text,
        "=" if text else order,
        comments=comments,
    ).write(path)
    return path


def rows(path: Path) -> np.ndarray:
    return PlyData.read(path)["vertex"].data


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Networks with random weights: embeddings.safetensors and
    scores.safetensors."""
    folder = tmp_path_factory.mktemp("shelf")
    save_network(
        folder / "embeddings.safetensors",
        PointNetwork(NetworkSettings(), seed=3),
        **ABOUT,
    )
    scores = PointNetwork(NetworkSettings(channels=12, output="scores"), seed=3)
    save_network(
        folder / "scores.safetensors", scores, class_set=CLASS_SET, teacher=None
    )
    return folder


@pytest.fixture(scope="module")
def scorer(shelf) -> Path:
    return shelf / "scores.safetensors"


def ask(
    cloud: Path,
    checkpoint: Path,
    out: Path | None = None,
    classes=None,
    **settings,
):
    return predict(
        cloud,
        checkpoint,
        classes,
        out or cloud.parent / "out" / "labels.ply",
        PredictionSettings(**settings),
        device="cpu",
        progress=False,
    )


class TestTheResult:
    def test_is_what_the_network_says(self, tmp_path, scorer):
        points, colors = room()
        found = ask(
            write(tmp_path / "a.ply", points, colors),
            scorer,
            tmp_path / "b.ply",
        )
        network = PointNetwork(
            NetworkSettings(channels=12, output="scores"), seed=3
        )
        network.load_state_dict(
            {
                name: half(tensor)
                for name, tensor in network.state_dict().items()
            }
        )
        chances = point_scores(
            network, torch.from_numpy(points), torch.from_numpy(colors)
        ).softmax(dim=1)
        assert torch.equal(found.labels, chances.argmax(dim=1))
        torch.testing.assert_close(found.scores, chances.amax(dim=1))
        assert len(found.labels.unique()) > 2, "else the test says little"
        written = rows(tmp_path / "b.ply")
        assert written["label"].tolist() == found.labels.tolist()
        assert np.array_equal(written["score"], found.scores.numpy())
        for i, channel in enumerate(RGB):
            assert np.array_equal(
                written[channel],
                np.array(ROOMS_12.palette, np.uint8)[written["label"], i],
            )
        assert "label 3 window" in PlyData.read(tmp_path / "b.ply").comments

    def test_of_a_vote_is_the_mean_of_each_superpoint(self, tmp_path, scorer):
        points, colors = room()
        colors[points[:, 0] > 1.5] = 40
        broken = points.copy()
        broken[7] = np.nan
        cloud = write(tmp_path / "a.ply", broken, colors)
        pieces = SuperpointSettings(scale=2.0, least=20)
        plain, found = (
            ask(cloud, scorer, tmp_path / "b.ply", superpoints=settings)
            for settings in (None, pieces)
        )
        usable = np.arange(len(points)) != 7
        points, colors = map(torch.from_numpy, (points[usable], colors[usable]))
        regions = superpoints(points, colors, pieces)
        assert found.summary["superpoints"] == int(regions.max()) + 1 > 1
        assert plain.summary["superpoints"] is None
        network, _ = load_network(scorer)
        chances = point_scores(network, points, colors).softmax(dim=1)
        for region in regions.unique():
            inside = regions == region
            mean = chances[inside].mean(dim=0)
            labels, scores = found.labels[usable], found.scores[usable]
            assert labels[inside].tolist() == [int(mean.argmax())] * len(
                labels[inside]
            )
            assert scores[inside].tolist() == pytest.approx(
                [float(mean.max())] * len(labels[inside]), abs=1e-4
            )
        assert found.labels[7] == -1
        assert not torch.equal(found.labels, plain.labels)

    def test_tells_the_mean_score_of_each_class(self, tmp_path, scorer):
        found = ask(write(tmp_path / "a.ply", *room()), scorer)
        told = found.summary["mean_scores"]
        assert len(told) > 1
        for name, mean in told.items():
            own = found.scores[found.labels == found.class_set.index(name)]
            assert mean == pytest.approx(own.double().mean().item(), abs=1e-4)

    def test_of_embeddings_is_the_nearest_word(self, tmp_path, shelf):
        points, colors = room()
        words = ["plant", "rug", "wall"]
        found = ask(
            write(tmp_path / "a.ply", points, colors),
            shelf / "embeddings.safetensors",
            classes=words,
        )
        network = PointNetwork(NetworkSettings(), seed=3)
        network.load_state_dict(
            {
                name: half(tensor)
                for name, tensor in network.state_dict().items()
            }
        )
        text = create_model("small-attributes").text_embeddings(
            [f"a {word}" for word in words]
        )
        cosines = point_scores(
            network, torch.from_numpy(points), torch.from_numpy(colors), text
        )
        assert torch.equal(found.labels, cosines.argmax(dim=1))
        torch.testing.assert_close(
            found.scores, (cosines / 0.05).softmax(dim=1).amax(dim=1)
        )
        assert found.class_set.names == ("plant", "rug", "wall")

    def test_of_many_points_a_voxel_and_several_copies(self):
        """More points than are compared at a time, against all at once."""
        points, colors = room(count=40_000)
        points, colors = torch.from_numpy(points / 4), torch.from_numpy(colors)
        network = PointNetwork(
            NetworkSettings(channels=5, output="scores"), seed=3
        )
        labels, scores, _ = label_points(
            network,
            points,
            colors,
            Question(columns=[4, 0, 2], temperature=0.2, augmentations=3),
        )
        chances = (
            point_scores(network, points, colors, augmentations=3)[:, [4, 0, 2]]
            / 0.2
        ).softmax(dim=1)
        torch.testing.assert_close(scores, chances.amax(dim=1))
        named = chances.gather(1, labels[:, None])[:, 0]
        torch.testing.assert_close(named, chances.amax(dim=1))
        assert len(labels.unique()) == 3, "else the test says little"

    def test_stands_in_three_files(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        found = ask(
            cloud,
            scorer,
            tmp_path / "new" / "folder" / "b.ply",
            augmentations=2,
        )
        assert sorted(
            path.name for path in (tmp_path / "new" / "folder").iterdir()
        ) == ["b.html", "b.json", "b.ply"]
        summary = json.loads(
            (tmp_path / "new" / "folder" / "b.json").read_text()
        )
        assert summary == found.summary
        counts = torch.bincount(found.labels, minlength=12).tolist()
        assert summary["counts"] == {
            name: n for name, n in zip(ROOMS_12.names, counts, strict=True) if n
        }
        assert (summary["points"], summary["labelled"], summary["skipped"]) == (
            400,
            400,
            {},
        )
        assert (
            summary["units"],
            summary["units_given"],
            summary["augmentations"],
        ) == ("m", False, 2)
        page = (tmp_path / "new" / "folder" / "b.html").read_text(
            encoding="utf8"
        )
        assert "a.ply: predicted classes" in page
        without_plotly = re.sub(r"(?s)<script>.{100000,}?</script>", "", page)
        assert not re.search(
            r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", without_plotly
        )

    def test_is_the_same_twice(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        for name in ("b", "c"):
            ask(cloud, scorer, tmp_path / name / "x.ply", augmentations=3)
        for ending in ("ply", "html", "json"):
            assert (tmp_path / "b" / f"x.{ending}").read_bytes() == (
                tmp_path / "c" / f"x.{ending}"
            ).read_bytes()

    @pytest.mark.parametrize("kind", ["<f8", ">f4", "<i4"])
    def test_keeps_the_coordinates_as_they_came(self, tmp_path, scorer, kind):
        points = (room()[0] * (1000 if kind == "<i4" else 1)).astype(kind)
        cloud = write(
            tmp_path / "a.ply",
            points,
            room()[1],
            order=">" if kind[0] == ">" else "<",
        )
        ask(
            cloud,
            scorer,
            tmp_path / "b.ply",
            units="mm" if kind == "<i4" else None,
        )
        written = rows(tmp_path / "b.ply")
        for i, axis in enumerate("xyz"):
            assert np.array_equal(written[axis], points[:, i])
            assert written[axis].dtype.newbyteorder("=") == np.dtype(
                kind
            ).newbyteorder("=")

    def test_temperature_changes_scores_only(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        sharp, plain, flat = (
            ask(cloud, scorer, temperature=t) for t in (0.2, None, 5.0)
        )
        assert torch.equal(sharp.labels, flat.labels)
        assert bool((sharp.scores >= plain.scores).all())
        assert (
            sharp.scores.mean()
            > plain.scores.mean()
            > flat.scores.mean()
            > 1 / 12
        )

    def test_more_passes_change_it(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        assert not torch.equal(
            ask(cloud, scorer).scores,
            ask(cloud, scorer, augmentations=3).scores,
        )


def half(tensor):
    return tensor.half().float() if tensor.is_floating_point() else tensor


class TestUnitsAndAxes:
    @pytest.mark.parametrize("unit", ["cm", "mm"])
    def test_units_given(self, tmp_path, scorer, unit):
        points, colors = room()
        points = points.astype(np.float64)
        metres = ask(write(tmp_path / "m.ply", points, colors), scorer)
        other = ask(
            write(tmp_path / "u.ply", points / UNITS[unit], colors),
            scorer,
            units=unit,
        )
        # a point on a voxel's border may change sides
        assert (metres.labels == other.labels).float().mean() > 0.99
        assert other.summary["size_m"] == pytest.approx(
            metres.summary["size_m"], abs=0.01
        )

    def test_units_that_nobody_gave(self, tmp_path, scorer):
        points, colors = room()
        cloud = write(tmp_path / "a.ply", points * 4000 / 3, colors)
        with pytest.raises(
            ValueError,
            match=(
                r"a\.ply: the cloud measures .* looks like millimetres: pass"
                r" --units mm"
            ),
        ):
            ask(cloud, scorer)
        with pytest.raises(
            ValueError, match="looks like centimetres: pass --units cm"
        ):
            ask(write(cloud, points * 100, colors), scorer)
        assert not (tmp_path / "out").exists()

    def test_a_stray_point_is_no_unit(self, tmp_path, scorer):
        points, colors = room()
        alone = ask(write(tmp_path / "a.ply", points[:-1], colors[:-1]), scorer)
        points[-1] = [9e5, 0, 0]
        found = ask(write(tmp_path / "b.ply", points, colors), scorer)
        assert found.summary["skipped"] == {"far from the rest": 1}
        assert found.labels[-1] == -1
        assert torch.equal(found.labels[:-1], alone.labels)

    def test_a_tiny_cloud_is_noted(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        assert (
            "are the units right?"
            in ask(cloud, scorer, units="mm").summary["notes"][0]
        )
        assert ask(cloud, scorer).summary["notes"] == []

    @pytest.mark.parametrize("up", AXES)
    def test_the_axis_that_is_up(self, tmp_path, scorer, up):
        points, colors = room()
        turn = up_rotation(up)[:3, :3].numpy()
        assert np.linalg.det(turn) == 1, "a mirrored room is another room"
        direction = np.array(
            {"x": [1, 0, 0], "y": [0, 1, 0], "z": [0, 0, 1]}[up[-1]]
        ) * (-1 if up[0] == "-" else 1)
        assert (turn @ direction).tolist() == [0, 0, 1]
        upright = ask(write(tmp_path / "a.ply", points, colors), scorer)
        # points @ R = R^-1 of each
        turned = ask(
            write(tmp_path / "b.ply", points @ turn, colors), scorer, up=up
        )
        assert torch.equal(turned.labels, upright.labels)

    def test_the_place_on_earth_does_not_matter(self, tmp_path, scorer):
        """Moved by whole coarse voxels, to where float32 knows half metres
        only."""
        points, colors = room()
        points = points.astype(np.float64)
        near = ask(write(tmp_path / "a.ply", points, colors), scorer)
        far = points + np.array([64_000.0, 560_000.0, 4.0]) * 0.08 * 100
        found = ask(write(tmp_path / "b.ply", far, colors), scorer)
        assert torch.equal(found.labels, near.labels)
        torch.testing.assert_close(
            found.scores, near.scores, atol=1e-4, rtol=1e-4
        )

    @given(size=st.lists(st.floats(0, 150), min_size=3, max_size=3))
    def test_rooms_are_metres(self, size):
        assert units_factor(size, None) == 1.0


class TestColours:
    @pytest.mark.parametrize(
        "changed",
        [
            {"colors": lambda c: (c / 255).astype("<f4")},
            {"colors": lambda c: (c / 255).astype("<f8")},
            {"colors": lambda c: c.astype("<f4")},
            {"colors": lambda c: (c.astype(int) * 257).astype("<u2")},
            {"colors": lambda c: c.astype("<i4")},
            {"names": ("r", "g", "b")},
            {"names": ("diffuse_red", "diffuse_green", "diffuse_blue")},
            {"text": True},
            {"order": ">"},
        ],
        ids=[
            "0-1",
            "0-1 double",
            "0-255 float",
            "16-bit",
            "int",
            "rgb",
            "diffuse",
            "text",
            "big-endian",
        ],
    )
    def test_any_scale_and_any_way_of_writing(self, tmp_path, changed):
        points, colors = room()
        convert = changed.pop("colors", lambda c: c)
        read = read_cloud(
            write(tmp_path / "a.ply", points, convert(colors), **changed)
        )
        assert np.array_equal(read.colors.numpy(), colors)
        assert np.array_equal(read.positions().numpy(), points)
        assert bool(read.usable.all())

    @settings(max_examples=50, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        kind=st.sampled_from(["f4", "f8", "u2", "i4", "u1"]),
    )
    def test_every_scale_comes_back(self, seed, kind):
        colors = np.random.default_rng(seed).integers(0, 256, (7, 3))
        colors[0, 0] = 255
        if kind[0] == "f":
            there = [
                (colors / 255).astype(kind),
                colors.astype(kind),
                (colors * 257).astype(kind),
            ]
        else:
            there = [colors.astype(kind)] + (
                [(colors * 257).astype(kind)] if kind != "u1" else []
            )
        for values in there:
            assert np.array_equal(as_bytes(values)[0], colors)

    @pytest.mark.parametrize(
        "colors",
        [
            [[-0.5, 0.0, 0.5]],
            [[-128, 0, 127]],
            [[0, 0, 65536]],
            [[0.0, 1e9, 3.0]],
        ],
    )
    def test_no_known_scale(self, tmp_path, colors):
        cloud = write(
            tmp_path / "a.ply",
            np.zeros((1, 3), np.float32),
            np.array(colors, "f4"),
        )
        with pytest.raises(
            PlyError,
            match=(
                r"a\.ply: expected colours in 0-1, 0-255 or 0-65535, found .*"
                r" convert"
            ),
        ):
            read_cloud(cloud)

    def test_none(self, tmp_path, scorer):
        points, colors = room()
        cloud = write(tmp_path / "a.ply", points)
        with pytest.raises(
            PlyError,
            match=(
                r"a\.ply: expected colours \(red green blue\), found"
                r" none.*--no-color"
            ),
        ):
            ask(cloud, scorer)
        assert not (tmp_path / "out").exists()
        found = ask(cloud, scorer, use_color=False)
        assert "no colours were used" in found.summary["notes"][0]
        grey = ask(
            write(tmp_path / "b.ply", points, np.full_like(colors, 128)), scorer
        )
        assert torch.equal(found.labels, grey.labels)
        assert grey.summary["notes"] == ["all points have the same colour"]

    def test_colours_can_be_left_unused(self, tmp_path, scorer):
        points, colors = room()
        bare = ask(write(tmp_path / "a.ply", points), scorer, use_color=False)
        full = ask(
            write(tmp_path / "b.ply", points, colors), scorer, use_color=False
        )
        assert torch.equal(bare.labels, full.labels)

    def test_odd_ones_are_noted(self, tmp_path):
        points, colors = room()
        lost = read_cloud(write(tmp_path / "a.ply", points, colors // 200))
        assert "probably lost in a conversion" in lost.notes[0]
        dark = read_cloud(
            write(tmp_path / "b.ply", points, colors.astype("<u2"))
        )
        assert "reach only 255: taken as 0-255" in dark.notes[0]


class TestSinglePoints:
    def test_broken_ones_are_counted_and_keep_their_row(self, tmp_path, scorer):
        points, colors = room()
        good = ask(write(tmp_path / "a.ply", points, colors), scorer)
        values = np.insert(
            (colors / 255).astype(np.float32),
            [0, 7, 400],
            [[0.1] * 3, [np.nan] * 3, [0.2] * 3],
            axis=0,
        )
        broken = np.insert(
            points,
            [0, 7, 400],
            [[np.nan, 0, 0], [1, 1, 1], [0, np.inf, 0]],
            axis=0,
        )
        found = ask(
            write(tmp_path / "b.ply", broken, values),
            scorer,
            tmp_path / "out.ply",
        )
        assert found.summary["skipped"] == {
            "coordinate not finite": 2,
            "colour not finite": 1,
        }
        assert (found.summary["points"], found.summary["labelled"]) == (
            403,
            400,
        )
        bad = [0, 8, 402]
        rest = [i for i in range(403) if i not in bad]
        assert torch.equal(found.labels[rest], good.labels)
        written = rows(tmp_path / "out.ply")
        assert len(written) == 403
        assert written["label"][bad].tolist() == [-1] * 3
        assert written["score"][bad].tolist() == [0.0] * 3
        assert [tuple(written[i])[3:6] for i in bad] == [(190, 190, 190)] * 3
        for i, axis in enumerate("xyz"):
            assert np.array_equal(written[axis], broken[:, i], equal_nan=True)
        assert (
            "left out: 2 x coordinate not finite, 1 x colour not finite"
            in str(found)
        )

    def test_one_point(self, tmp_path, shelf):
        cloud = write(
            tmp_path / "a.ply",
            np.array([[1.0, 2.0, 3.0]], np.float32),
            np.array([[9, 8, 7]], np.uint8),
        )
        for name in ("embeddings", "scores"):
            found = ask(cloud, shelf / f"{name}.safetensors", augmentations=2)
            assert 0 <= int(found.labels[0]) < 12
            assert len(rows(tmp_path / "out" / "labels.ply")) == 1

    def test_only_broken_ones(self, tmp_path, scorer):
        points, colors = room(5)
        with pytest.raises(
            PlyError,
            match=(
                "expected points with finite coordinates and colours, found"
                " none among 5"
            ),
        ):
            ask(write(tmp_path / "a.ply", points * np.nan, colors), scorer)


class TestFilesThatAreNoCloud:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not a whole PLY file .*; make the file again"),
            (b"PK\x03\x04 a zip", "not a whole PLY file .*MeshLab"),
            (b"ply", "not a whole PLY file"),
            (
                b"ply\nformat ascii 1.0\nend_header\n",
                "expected points .an element 'vertex'., found none",
            ),
            (
                (
                    b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float"
                    b" x\nend_header\n1\n"
                ),
                "not a whole PLY file",
            ),
            (
                (
                    b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float"
                    b" x\nend_header\n1\n"
                ),
                "found no y z",
            ),
            (
                (
                    b"ply\nformat ascii 1.0\nelement vertex one\nproperty float"
                    b" x\nend_header\n1\n"
                ),
                "not a whole PLY file",
            ),
            (
                (
                    b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list"
                    b" uchar int x\nend_header\n1 1\n"
                ),
                "no x y z",
            ),
        ],
    )
    def test_content(self, tmp_path, scorer, content, message):
        cloud = tmp_path / "a.ply"
        cloud.write_bytes(content)
        with pytest.raises(PlyError, match=rf"a\.ply: .*{message}"):
            ask(cloud, scorer)
        assert not (tmp_path / "out").exists()

    def test_without_points(self, tmp_path):
        with pytest.raises(PlyError, match="found none"):
            read_cloud(write(tmp_path / "a.ply", *room(0)))

    def test_missing_or_a_folder(self, tmp_path):
        with pytest.raises(PlyError, match=r"a\.ply: no such file"):
            read_cloud(tmp_path / "a.ply")
        with pytest.raises(PlyError, match="a folder, not a file"):
            read_cloud(tmp_path)

    @pytest.mark.parametrize("text", [True, False])
    def test_cut_anywhere(self, tmp_path, text):
        whole = write(tmp_path / "a.ply", *room(20), text=text).read_bytes()
        cloud = tmp_path / "cut.ply"
        # the last number of a text may lose a digit
        for length in range(0, len(whole) - 12, 3):
            cloud.write_bytes(whole[:length])
            with pytest.raises(PlyError, match=r"cut\.ply: "):
                read_cloud(cloud)

    def test_a_changed_byte_of_the_header_is_an_error_or_nothing(
        self, tmp_path
    ):
        whole = write(tmp_path / "a.ply", *room(20)).read_bytes()
        end = whole.index(b"end_header")
        generator = np.random.default_rng(0)
        for at in range(end):
            changed = bytearray(whole)
            changed[at] = generator.integers(256)
            (tmp_path / "b.ply").write_bytes(bytes(changed))
            with suppress(PlyError):
                read_cloud(tmp_path / "b.ply")


class TestCheckpoints:
    def change(
        self,
        folder: Path,
        shelf: Path,
        name: str,
        *,
        settings=None,
        drop=(),
        **about,
    ) -> Path:
        tensors, said = load_tensors(shelf / f"{name}.safetensors")
        said = {
            key: value
            for key, value in (said | about).items()
            if key not in drop
        }
        said["settings"] = said["settings"] | (settings or {})
        save_tensors(folder / "changed.safetensors", tensors, said)
        return folder / "changed.safetensors"

    def refused(
        self, tmp_path: Path, checkpoint: Path | str, message: str, classes=None
    ) -> None:
        cloud = write(tmp_path / "a.ply", *room())
        with pytest.raises(ValueError, match=message) as caught:
            ask(cloud, checkpoint, classes=classes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_that_are_none(self, tmp_path, shelf):
        self.refused(
            tmp_path, "no-such-network", "unknown checkpoint 'no-such-network'"
        )
        self.refused(tmp_path, shelf / "no.safetensors", "no such file")
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes((shelf / "scores.safetensors").read_bytes()[:10_000])
        self.refused(tmp_path, cut, "not a whole safetensors file")

    def test_of_another_architecture(self, tmp_path, shelf):
        other = self.change(
            tmp_path, shelf, "scores", settings={"architecture": "MinkUNet18A"}
        )
        self.refused(
            tmp_path,
            other,
            r"weights and settings do not fit .* known networks: MinkUNet14A",
        )
        with pytest.raises(StoreError):
            ask(tmp_path / "a.ply", other)

    def test_of_another_class_set(self, tmp_path, shelf):
        names = {
            "class_set": {"name": "scannet-20", "names": ["wall", "floor"]}
        }
        other = self.change(tmp_path, shelf, "scores", **names)
        self.refused(tmp_path, other, "12 scores a point and the names of 2")
        message = (
            r"scores a fixed set of classes, and 'plant' is none of them;"
            r" known: ceiling, floor, .*embeddings"
        )
        self.refused(
            tmp_path, shelf / "scores.safetensors", message, "wall,plant"
        )

    def test_that_do_not_say_what_they_need_to(self, tmp_path, shelf):
        self.refused(
            tmp_path,
            self.change(tmp_path, shelf, "scores", drop=["class_set"]),
            "the names of 0",
        )
        bare = self.change(tmp_path, shelf, "embeddings", drop=["class_set"])
        self.refused(
            tmp_path, bare, "expected 1 to 254 classes, found 0: name some"
        )
        assert (
            ask(
                write(tmp_path / "a.ply", *room()),
                bare,
                tmp_path / "x.ply",
                "wall,floor",
            ).class_set.names[1]
            == "floor"
        )
        (tmp_path / "x.ply").unlink()
        mute = self.change(tmp_path, shelf, "embeddings", teacher=None)
        self.refused(
            tmp_path, mute, "does not name the model whose text tower it needs"
        )
        strange = self.change(
            tmp_path, shelf, "embeddings", teacher="openseg-9"
        )
        self.refused(
            tmp_path,
            strange,
            "unknown vision-language model 'openseg-9'; known:"
            " small-attributes",
        )

    def test_of_another_teacher(self, tmp_path, shelf):
        network = PointNetwork(NetworkSettings(channels=32))
        save_network(tmp_path / "narrow.safetensors", network, **ABOUT)
        self.refused(
            tmp_path,
            tmp_path / "narrow.safetensors",
            "text embeddings of 64 numbers for point embeddings of 32",
        )

    def test_with_weights_that_are_no_numbers(self, tmp_path):
        network = PointNetwork(NetworkSettings(channels=12, output="scores"))
        with torch.no_grad():
            network.unet.final.kernel[0] = torch.nan
        save_network(tmp_path / "nan.safetensors", network, class_set=CLASS_SET)
        self.refused(
            tmp_path, tmp_path / "nan.safetensors", "its weights are damaged"
        )


class TestClasses:
    def test_an_unknown_word_names_the_vocabulary(self, tmp_path, shelf):
        cloud = write(tmp_path / "a.ply", *room())
        with pytest.raises(
            ValueError,
            match=(
                r"does not know the word 'sofabed' in 'a sofabed'; it knows:"
                r" .*sofa"
            ),
        ):
            ask(cloud, shelf / "embeddings.safetensors", classes="wall,sofabed")

    @pytest.mark.parametrize("classes", ["", "wall,,floor", [], ["wall", " "]])
    def test_no_words(self, tmp_path, scorer, classes):
        cloud = write(tmp_path / "a.ply", *room())
        with pytest.raises(
            ValueError, match="expected words with commas between"
        ):
            ask(cloud, scorer, classes=classes)

    def test_a_word_twice(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        with pytest.raises(ValueError, match="names a class twice"):
            ask(cloud, scorer, classes="wall,floor,wall")

    def test_some_of_a_fixed_set(self, tmp_path, scorer):
        """The best of those that are asked for, numbered as asked, in the
        colours that they have everywhere."""
        points, colors = room()
        cloud = write(tmp_path / "a.ply", points, colors)
        names = ["chair", "ceiling", "wall"]
        found = ask(cloud, scorer, classes=names)
        network = PointNetwork(
            NetworkSettings(channels=12, output="scores"), seed=3
        )
        network.load_state_dict(
            {
                name: half(tensor)
                for name, tensor in network.state_dict().items()
            }
        )
        scores = point_scores(
            network, torch.from_numpy(points), torch.from_numpy(colors)
        )
        assert torch.equal(found.labels, scores[:, [6, 0, 2]].argmax(dim=1))
        assert found.class_set.palette == tuple(
            ROOMS_12.palette[ROOMS_12.index(name)] for name in names
        )

    def test_a_checkpoint_may_hold_the_colors_of_its_classes(self):
        network = PointNetwork(NetworkSettings(channels=2, output="scores"))
        palette = [[1, 2, 3], [4, 5, 6]]
        about = {"class_set": {"names": ["cup", "mug"], "palette": palette}}
        found = choose_classes(network, about, ["mug"], "mine").class_set
        assert found.palette == ((4, 5, 6),)

    @pytest.mark.parametrize(
        "palette",
        [
            [[1, 2, 3]],
            [[1, 2, 3], [4, 5]],
            [[1, 2, 3], [4, 5, 256]],
            [[1, 2, 3], [4, 5, -1]],
            [[1, 2, 3], [4, 5, 0.5]],
            "red",
            [["a"], ["b"]],
            [[1, 2, 3], [4, 5, 2**70]],
        ],
    )
    def test_colors_that_are_none(self, palette):
        network = PointNetwork(NetworkSettings(channels=2, output="scores"))
        about = {"class_set": {"names": ["cup", "mug"], "palette": palette}}
        with pytest.raises(ValueError, match=r"mine: expected a palette"):
            choose_classes(network, about, None, "mine")

    def test_text_and_list_are_the_same(self, tmp_path, shelf):
        cloud = write(tmp_path / "a.ply", *room())
        one = ask(
            cloud,
            shelf / "embeddings.safetensors",
            classes=" wall, white board ,floor",
        )
        two = ask(
            cloud,
            shelf / "embeddings.safetensors",
            classes=["wall", "white board", "floor"],
        )
        assert torch.equal(one.labels, two.labels)
        assert one.class_set.names == ("wall", "white board", "floor")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"units": "inch"}, "unknown units 'inch'; known: m, cm, mm"),
            ({"up": "w"}, "unknown axis 'w'; known: x, y, z, -x"),
            (
                {"augmentations": 0},
                "expected at least one copy of the cloud .* found 0",
            ),
            (
                {"temperature": 0.0},
                "the temperature must be above zero, found 0",
            ),
            (
                {"temperature": float("nan")},
                "the temperature must be above zero, found nan",
            ),
            ({"device": "abacus"}, "unknown device 'abacus'; known: cpu, cuda"),
            ({"device": "meta"}, "device 'meta' is not supported"),
            ({"device": "cuda:99"}, "device 'cuda:99' is not here"),
            (
                {"out": "labels.txt"},
                "labels.txt: expected the name of a .ply file to write",
            ),
            ({"out": "."}, "expected the name of a .ply file to write"),
            (
                {"out": "a.ply"},
                "a.ply: is the input; give the result another name",
            ),
            ({"out": "a.ply/b/c.ply"}, "a.ply is a file, not a folder"),
        ],
    )
    def test_that_make_no_sense(self, tmp_path, scorer, options, message):
        cloud = write(tmp_path / "a.ply", *room())
        before = cloud.read_bytes()
        out = tmp_path / options.pop("out", "out/x.ply")
        device = options.pop("device", None)
        with pytest.raises(ValueError, match=message):
            predict(
                cloud,
                scorer,
                None,
                out,
                PredictionSettings(**options),
                device=device,
                progress=False,
            )
        assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]
        assert cloud.read_bytes() == before


class TestLargeClouds:
    @settings(max_examples=20, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        limit=st.integers(1, 400),
        margin=st.integers(0, 10),
    )
    def test_every_point_is_one_tiles_own(self, seed, limit, margin):
        points = torch.from_numpy(room(500, seed)[0])
        owned = torch.zeros(len(points), dtype=torch.int64)
        for seen, own in tiles(points, 0.1, limit, margin):
            owned[seen[own]] += 1
            cells = (points[seen].double() / 0.1).floor()
            columns = len(cells[own][:, :2].unique(dim=0))
            assert (
                len(voxelize(points[seen[own]], 0.1)) <= limit or columns == 1
            )
            low, high = cells[own].amin(dim=0)[:2], cells[own].amax(dim=0)[:2]
            beside = (points.double() / 0.1).floor()[:, :2]
            near = ((beside >= low - margin) & (beside <= high + margin)).all(
                dim=1
            )
            assert torch.equal(near.nonzero()[:, 0], seen)
        assert owned.tolist() == [1] * len(points)

    def test_tiles_with_all_they_can_see_change_nothing(self):
        """With a margin as wide as the network sees, a tile's own points get
        what they get in the whole cloud."""
        points, colors = (torch.from_numpy(part) for part in room(1500))
        network = PointNetwork(
            NetworkSettings(
                channels=6, output="scores", height=False, voxel_size=0.25
            )
        ).eval()
        whole = label_points(network, points, colors, Question())
        cut = label_points(network, points, colors, Question(), tile_voxels=300)
        assert (whole[2], cut[2] > 3) == (1, True)
        torch.testing.assert_close(cut[1], whole[1], atol=1e-5, rtol=1e-5)
        assert (cut[0] == whole[0]).float().mean() > 0.999

    def test_a_cloud_of_one_column_is_one_tile(self):
        points = torch.tensor([[0.05, 0.05, 0.1 * z] for z in range(50)])
        assert len(list(tiles(points, 0.1, 5))) == 1


class TestCommand:
    def test_prints_a_report(self, tmp_path, scorer):
        cloud = write(tmp_path / "a.ply", *room())
        arguments = [
            str(cloud),
            "--checkpoint",
            str(scorer),
            "--out",
            str(tmp_path / "out" / "b.ply"),
            "--up",
            "-y",
        ]
        result = CliRunner().invoke(
            app, ["predict", *arguments, "--device", "cpu", "--quiet"]
        )
        assert result.exit_code == 0, result.output
        assert result.output.startswith("400 points, ")
        assert "left out: none; 1 x network" in result.output
        assert (
            json.loads((tmp_path / "out" / "b.json").read_text())["up"] == "-y"
        )
        for name, count in json.loads(
            (tmp_path / "out" / "b.json").read_text()
        )["counts"].items():
            assert re.search(rf"{name} +{count} ", result.output)

    def test_shows_examples(self):
        text = CliRunner().invoke(app, ["predict", "--help"]).output
        for part in (
            "Examples:",
            "--units mm --up y",
            "OUT.json",
            "--no-color",
        ):
            assert part in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere.ply"], "error: nowhere.ply: no such file"),
            (
                ["a.ply", "--checkpoint", "nothing"],
                "error: unknown checkpoint 'nothing'",
            ),
            (
                ["a.ply", "--classes", "wall,plant"],
                "error: scores.safetensors: this network scores a fixed set",
            ),
            (
                ["a.ply", "--units", "mile"],
                "error: unknown units 'mile'; known: m, cm, mm",
            ),
            (
                ["grey.ply"],
                (
                    "error: grey.ply: expected colours (red green blue), found"
                    " none"
                ),
            ),
            (
                ["a.ply", "--augmentations", "many"],
                "Invalid value for '--augmentations'",
            ),
        ],
    )
    def test_bad_input_is_one_line(
        self, tmp_path, scorer, monkeypatch, capsys, arguments, message
    ):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "a.ply", *room())
        write(tmp_path / "grey.ply", room()[0])
        (tmp_path / "scores.safetensors").write_bytes(scorer.read_bytes())
        checkpoint = (
            []
            if "--checkpoint" in arguments
            else ["--checkpoint", "scores.safetensors"]
        )
        monkeypatch.setattr(
            "sys.argv", ["vlg", "predict", *arguments, *checkpoint]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        printed = capsys.readouterr().err
        assert message in printed
        if message.startswith("error"):
            assert printed.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "a.ply",
            "grey.ply",
            "scores.safetensors",
        ]
