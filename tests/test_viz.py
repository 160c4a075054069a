"""Figures: what travels into the page is what the library computed, and nobody
is left without an alternative."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
import types

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlg_lib import viz
from vlg_lib.classes import (
    IGNORE_LABEL,
    ROOMS_12,
    UNLABELLED_COLOR,
    own_class_set,
)
from vlg_lib.viz import figure3d
from vlg_lib.viz.payload import ASSETS, choose_points, rank_logits

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def front_end(monkeypatch):
    """Figures as the book shows them, wherever the tests run."""
    for name in ("JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def room():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(500, 3, generator=generator) * torch.tensor(
        [5.0, 4.0, 2.5]
    )
    labels = torch.randint(-1, 12, (500,), generator=generator)
    colors = torch.randint(
        0, 256, (500, 3), generator=generator, dtype=torch.uint8
    )
    logits = torch.randn(500, 12, generator=generator) * 0.1 + 0.2
    return points, labels, colors, logits


def decoded(figure, field, dtype="u1"):
    return np.frombuffer(base64.b64decode(figure.data[field]), dtype)


def page_coordinates(figure):
    """Coordinates as the loader computes them."""
    return (
        decoded(figure, "points", "<i2").reshape(-1, 3) * figure.data["unit"]
        + figure.data["center"]
    )


def test_points_and_labels_arrive_to_the_millimetre(room):
    points, labels, _, _ = room
    figure = viz.show3d(points, labels, class_set=ROOMS_12, alt="a room")
    assert np.abs(page_coordinates(figure) - points.numpy()).max() <= 0.00051
    arrived = decoded(figure, "labels").astype(int)
    arrived[arrived == 255] = IGNORE_LABEL
    assert arrived.tolist() == labels.tolist()
    assert sum(figure.counts.values()) == 500
    assert figure.counts["bed"] == int((labels == 10).sum())
    assert figure.counts["unlabelled"] == int((labels == -1).sum())


def test_colours_arrive_unchanged(room):
    points, _, colors, _ = room
    figure = viz.show3d(points, colors, alt="a room")
    assert decoded(figure, "colors").reshape(-1, 3).tolist() == colors.tolist()
    assert figure.counts == {}
    assert "vlg3d-legend" not in figure.to_html()


def test_a_cloud_of_kilometres_does_not_overflow():
    points = torch.tensor(
        [[0.0, 0.0, 0.0], [4000.0, 100.0, 30.0], [2000.0, 50.0, 10.0]]
    )
    figure = viz.show3d(
        points,
        torch.zeros(3, dtype=torch.uint8).repeat(3, 1).T.contiguous(),
        alt="a street",
    )
    assert figure.data["unit"] > 0.001
    assert (
        np.abs(page_coordinates(figure) - points.numpy()).max()
        <= figure.data["unit"]
    )


def test_many_points_are_thinned_the_same_way_each_time():
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(3000) % 12
    first, second = (
        viz.show3d(
            points,
            labels,
            class_set=ROOMS_12,
            alt="x",
            view=viz.View3D(max_points=1000),
        )
        for _ in range(2)
    )
    assert first.data == second.data
    assert len(decoded(first, "labels")) == 1000
    kept = decoded(first, "labels")
    nearest = (
        np.abs(page_coordinates(first)[:, None] - points.numpy()[None])
        .sum(-1)
        .argmin(1)
    )
    # thinning keeps points and labels together
    assert (labels.numpy()[nearest] == kept).all()


def test_the_cut_is_automatic_for_rooms_only(room):
    points, labels, _, _ = room
    figure = viz.show3d(points, labels, class_set=ROOMS_12, alt="x")
    assert 0.8 * 2.5 < figure.data["cut"] < 0.9 * 2.5
    assert (
        viz.show3d(points * 0.1, labels, class_set=ROOMS_12, alt="x").data[
            "cut"
        ]
        is None
    )
    assert (
        viz.show3d(
            points,
            labels,
            class_set=ROOMS_12,
            alt="x",
            view=viz.View3D(cut=None),
        ).data["cut"]
        is None
    )
    assert (
        viz.show3d(
            points,
            labels,
            class_set=ROOMS_12,
            alt="x",
            view=viz.View3D(cut=1.25),
        ).data["cut"]
        == 1.25
    )


def test_the_poster_shows_the_classes(room):
    points, _, _, _ = room
    figure = viz.show3d(
        points,
        torch.full((500,), 10),
        class_set=ROOMS_12,
        alt="beds",
        view=viz.View3D(cut=None),
    )
    picture = np.array(Image.open(io.BytesIO(figure.poster)).convert("RGB"))
    assert picture.shape == (420, 640, 3)
    colors, counts = np.unique(
        picture.reshape(-1, 3), axis=0, return_counts=True
    )
    assert set(map(tuple, colors.tolist())) == {
        (252, 252, 252),
        ROOMS_12.palette[10],
    }
    assert counts.min() > 1000


def test_nearer_points_hide_farther_ones(monkeypatch):
    line = torch.linspace(0, 1, 150)
    wall = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(
        -1, 2
    )
    points = torch.cat(
        [
            torch.cat([wall[:, :1], torch.full((22500, 1), y), wall[:, 1:]], 1)
            for y in (0.0, 3.0)
        ]
    )
    labels = torch.cat([torch.full((22500,), 2), torch.full((22500,), 10)])
    order = torch.randperm(45000, generator=torch.Generator().manual_seed(0))
    # Looking along +y, the wall at y = 0 stands in front of the other.
    monkeypatch.setattr("vlg_lib.viz.payload.EYE", (0.0, -4.0, 0.0))
    figure = viz.show3d(
        points[order],
        labels[order],
        class_set=ROOMS_12,
        alt="x",
        view=viz.View3D(max_points=45_000),
    )
    picture = np.array(Image.open(io.BytesIO(figure.poster)).convert("RGB"))
    middle = picture[180:260, 300:340].reshape(-1, 3)
    assert (middle == ROOMS_12.palette[2]).all(1).any()
    assert not (middle == ROOMS_12.palette[10]).all(1).any()


def test_html_is_one_light_fragment_with_alternatives(room):
    points, labels, _, _ = room
    points, labels = points.repeat(40, 1), labels.repeat(40)
    figure = viz.show3d(
        points, labels, class_set=ROOMS_12, alt='a "room" <b>', caption="A & B"
    )
    fragment = figure.to_html()
    assert len(fragment) < 300_000  # 20,000 points
    assert 'alt="a &quot;room&quot; &lt;b&gt;"' in fragment
    assert "<figcaption>A &amp; B</figcaption>" in fragment
    assert 'role="img"' not in fragment
    data = json.loads(
        re.search(r'vlg3d-data">(.*?)</script>', fragment, re.DOTALL)[1]
    )
    assert data == figure.data
    assert "http" not in fragment


def test_class_names_cannot_break_out_of_the_page():
    words = own_class_set(["</script><b>", "a & b"])
    figure = viz.show3d(
        torch.eye(3), torch.tensor([0, 1, -1]), class_set=words, alt="x"
    )
    fragment = figure.to_html()
    assert fragment.count("</script>") == 1
    assert "<b>" not in fragment.replace("<\\/script><b>", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alt": "  "}, "alt is empty"),
        (
            {
                "points": torch.zeros(0, 3),
                "labels_or_colors": torch.zeros(0, dtype=torch.long),
            },
            "no points",
        ),
        ({"points": torch.full((4, 3), torch.nan)}, "NaN"),
        (
            {"labels_or_colors": torch.tensor([0, 1, 2, 12])},
            r"-1 to 11, found 0 to 12",
        ),
        ({"labels_or_colors": torch.tensor([0, 1, 2, -2])}, r"found -2"),
        ({"class_set": None}, "need a class_set"),
    ],
)
def test_what_no_figure_can_be_made_of_is_refused(change, message):
    good = {
        "points": torch.rand(4, 3),
        "labels_or_colors": torch.arange(4),
        "class_set": ROOMS_12,
        "alt": "x",
    }
    with pytest.raises(ValueError, match=message):
        viz.show3d(**(good | change))


def test_lengths_that_differ_are_refused():
    # Called below the public functions, whose shapes are checked while the
    # tests run.
    with pytest.raises(ValueError, match="4 points but 2 colours"):
        choose_points(torch.rand(4, 3), {"colours": torch.zeros(2, 3)}, 10, "x")


# ---- the page that thinks ----


@given(
    st.integers(2, 20),
    st.integers(1, 30),
    st.integers(0, 2**31),
    st.sampled_from([1e-6, 0.05, 1.0, 100.0]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_ranks_keep_the_argmax_under_every_mask(
    classes, points, seed, scale, with_ties
):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(points, classes, generator=generator) * scale
    if with_ties:
        logits = (logits / scale * 2).round() * scale
    ranks = rank_logits(logits)
    assert ranks.dtype == torch.uint8
    for _ in range(8):
        mask = torch.rand(classes, generator=generator) < 0.5
        if mask.any():
            expected = (
                logits.masked_fill(~mask, -torch.inf).double().numpy().argmax(1)
            )
            kept = ranks.long().masked_fill(~mask, -1).numpy().argmax(1)
            assert (expected == kept).all()


def test_all_logits_equal_stay_a_valid_picture():
    assert rank_logits(torch.full((2, 3), 0.5)).tolist() == [[2, 1, 0]] * 2


def test_tag_room_starts_with_the_librarys_pseudo_labels(room):
    points, _, colors, logits = room
    logits[:7] = 0  # no view saw these
    scene_labels = ROOMS_12.mask(["floor", "bed", "wall"])
    figure = viz.tag_room(
        points, colors, logits, ROOMS_12, scene_labels, alt="a room"
    )
    expected = logits.masked_fill(~scene_labels, -torch.inf).argmax(1)
    expected[:7] = 255
    assert decoded(figure, "labels").tolist() == expected.tolist()
    assert set(figure.counts) == {"unlabelled", "floor", "wall", "bed"}
    assert figure.data["scene_labels"] == scene_labels.tolist()
    assert len(decoded(figure, "logits")) == 500 * 12


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_browsers_argmax_is_the_librarys(room, tmp_path):
    """The loader's own function, run by node, against torch, for a few choices
    of tags."""
    points, _, colors, logits = room
    logits[:7] = 0
    figure = viz.tag_room(
        points,
        colors,
        logits,
        ROOMS_12,
        torch.ones(12, dtype=torch.bool),
        alt="a room",
    )
    masks = [[k % step == 0 for k in range(12)] for step in (1, 2, 3, 5)] + [
        [False] * 12
    ]
    (tmp_path / "in.json").write_text(
        json.dumps({"data": figure.data, "masks": masks})
    )
    script = f"""
      global.window = {{}};
      global.document = {{
        readyState: "complete",
        querySelectorAll: () => [],
        currentScript: null,
      }};
      require({json.dumps(str(ASSETS / "vlg3d.js"))});
      const {{ data, masks }} =
        require({json.dumps(str(tmp_path / "in.json"))});
      const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
      const [logits, seen] = [bytes(data.logits), bytes(data.seen)];
      console.log(JSON.stringify(masks.map((mask) =>
        Array.from(window.VLG3D.maskedArgmax(logits, seen, 12, mask)))));
    """
    done = subprocess.run(
        ["node", "-e", script], capture_output=True, text=True, check=True
    )
    for mask, labels in zip(masks, json.loads(done.stdout), strict=True):
        mask = torch.tensor(mask)
        expected = logits.masked_fill(~mask, -torch.inf).argmax(1)
        expected[:7] = 255
        if not mask.any():
            expected[:] = 255
        assert labels == expected.tolist()


def test_tag_room_refuses_what_does_not_fit(room):
    points, _, colors, logits = room
    with pytest.raises(ValueError, match="11 columns of logits"):
        viz.tag_room(
            points,
            colors,
            logits[:, :11],
            ROOMS_12,
            torch.ones(11, dtype=torch.bool),
            alt="x",
        )
    with pytest.raises(ValueError, match="before the mask"):
        viz.tag_room(
            points,
            colors,
            logits - torch.inf,
            ROOMS_12,
            ROOMS_12.mask(["bed"]),
            alt="x",
        )


# ---- where a figure is shown ----


def test_the_book_gets_a_fragment_and_a_notebook_a_page_in_a_frame(
    room, monkeypatch
):
    points, labels, colors, logits = room
    tagged = viz.tag_room(
        points, colors, logits, ROOMS_12, ROOMS_12.mask(["bed"]), alt="tags"
    )
    for figure in (
        viz.show3d(points, labels, class_set=ROOMS_12, alt='a "room"'),
        tagged,
    ):
        assert figure._repr_mimebundle_() == {
            "text/html": figure.to_html(),
            "text/plain": repr(figure),
        }
        with monkeypatch.context() as patch:
            patch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
            live = figure._repr_mimebundle_()
            patch.setitem(
                sys.modules, "google.colab", types.ModuleType("google.colab")
            )
            colab = figure._repr_mimebundle_()["text/html"]
        assert colab.startswith("<iframe")
        assert "cdn.plot.ly" in colab
        assert len(colab) < 500_000  # Colab is online
        if figure is tagged:
            assert live["text/html"].startswith("<iframe")
            (page,) = re.findall(r'srcdoc="([^"]*)"', live["text/html"])
            assert html.unescape(page) == figure.to_page(figure.alt)
        else:
            (trace,) = live["application/vnd.plotly.v1+json"]["data"]
            assert trace["type"] == "scatter3d"


def test_plotly_draws_the_colours_of_labels_and_of_points_and_honours_the_cut(
    room,
):
    points, labels, colors, _ = room
    (trace,) = (
        viz.show3d(
            points,
            labels,
            class_set=ROOMS_12,
            alt="a room",
            view=viz.View3D(cut=None),
        )
        .to_plotly()
        .data
    )
    expected = [
        (
            "#bebebe"
            if k < 0
            else "#{:02x}{:02x}{:02x}".format(*ROOMS_12.palette[k])
        )
        for k in labels.tolist()
    ]
    assert trace.marker.color.tolist() == expected
    assert np.allclose(
        np.stack([trace.x, trace.y, trace.z], 1), points, atol=1e-3
    )
    (trace,) = (
        viz.show3d(points, colors, alt="a room", view=viz.View3D(cut=1.0))
        .to_plotly()
        .data
    )
    below = points[:, 2] <= 1.0
    assert np.allclose(trace.z, points[below, 2], atol=1e-3)
    assert trace.marker.color[0] == "rgb({},{},{})".format(
        *colors[below][0].tolist()
    )


def test_the_bundled_plotly_is_the_version_we_say():
    head = (ASSETS / "plotly-gl3d.min.js").read_text(encoding="utf8")[:200]
    assert f"v{figure3d.PLOTLY_JS}" in head
    assert (ASSETS / "LICENSE-plotly.txt").is_file()


def test_a_stand_alone_page_needs_nothing_else(room, tmp_path):
    points, labels, _, _ = room
    path = viz.save_page3d(
        tmp_path / "deep" / "room.html", points, labels, ROOMS_12, "My <room>"
    )
    page = path.read_text()
    assert "<title>My &lt;room&gt;</title>" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', page)
    assert len(page) < 2_500_000


# ---- pictures ----


def test_label_colours_by_hand():
    image = viz.label_colors(torch.tensor([[10, IGNORE_LABEL]]), ROOMS_12)
    assert image.tolist() == [
        [list(ROOMS_12.palette[10]), list(UNLABELLED_COLOR)]
    ]


def test_label_image_writes_the_names_of_large_regions():
    labels = torch.full((40, 60), 2)
    labels[10:30, 5:25] = 10
    labels[0, 0] = 4  # one pixel: too small for a name
    labels[35:, :] = IGNORE_LABEL
    ax = viz.show_label_image(labels, ROOMS_12, title="t")
    names = {text.get_text(): text.get_position() for text in ax.texts}
    assert set(names) == {"wall", "bed"}
    column, row = names["bed"]
    assert labels[int(row), int(column)] == 10
    assert not viz.show_label_image(labels, ROOMS_12, names=False).texts
    plt.close("all")


def test_legend_names_what_occurs():
    _, ax = plt.subplots()
    drawn = viz.legend(ROOMS_12, torch.tensor([2, 10, IGNORE_LABEL]), ax)
    assert [text.get_text() for text in drawn.get_texts()] == [
        "wall",
        "bed",
        "unlabelled",
    ]
    assert [
        text.get_text()
        for text in viz.legend(ROOMS_12, ["sofa"], ax).get_texts()
    ] == ["sofa"]
    assert len(viz.legend(ROOMS_12, ax=ax).get_texts()) == 12
    with pytest.raises(ValueError, match="unknown class 'sofe'"):
        viz.legend(ROOMS_12, ["sofe"], ax)
    plt.close("all")


def test_the_strip_says_where_you_are():
    strip = viz.pipeline_strip("fusion")
    assert "You are here: fusion." in strip._repr_html_()
    assert strip._repr_html_().count("#0b57d0") == 1
    assert repr(strip).startswith("The pipeline: frames")
    with pytest.raises(ValueError, match="known: frames, "):
        viz.pipeline_strip("fusing")


def test_the_style_can_be_used():
    with plt.rc_context():
        viz.use_style()
        assert plt.rcParams["axes.spines.top"] is False
