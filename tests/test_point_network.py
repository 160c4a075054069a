"""Points in, a vector for every point out: what the network is told, test-time
augmentation, and its file."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from vlg_lib.artifacts import StoreError, load_tensors, save_tensors
from vlg_lib.networks.point_network import (
    TURN,
    NetworkSettings,
    PointNetwork,
    load_network,
    point_features,
    point_scores,
    save_network,
    scaled_colors,
    voxel_inputs,
)

EMBEDDINGS = NetworkSettings(channels=8)
SCORES = NetworkSettings(channels=5, output="scores")


def cloud(count: int = 300, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * torch.tensor(
        [2.0, 1.5, 1.8]
    )
    return points, torch.randint(
        0, 256, (count, 3), generator=generator, dtype=torch.uint8
    )


def words(count: int = 3, dim: int = 8):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def network() -> PointNetwork:
    return PointNetwork(EMBEDDINGS, seed=1).eval()


@pytest.fixture(scope="module")
def classifier() -> PointNetwork:
    return PointNetwork(SCORES, seed=1).eval()


class TestWhatTheNetworkIsTold:
    def test_height_by_hand(self):
        """200 points: the floor is the second lowest, so that one stray point
        below it counts for nothing."""
        z = torch.linspace(0.0, 1.99, 200)
        z[0] = -70.0
        points = torch.stack([torch.zeros(200), torch.ones(200), z], dim=1)
        features = point_features(points, torch.zeros(200, 3), height=True)
        assert features.shape == (200, 4)
        assert features[:, :3].abs().max() == 0
        assert features[1, 3] == -1.0  # on the floor
        # 1.5 m above it
        torch.testing.assert_close(features[151, 3], torch.tensor(0.0))
        torch.testing.assert_close(features[:, 3], (z - z[1]) / 1.5 - 1)

    def test_height_does_not_depend_on_where_zero_is(self):
        points, colors = cloud()
        moved = points + torch.tensor([5.0, -3.0, 8.0])
        features = [
            point_features(p, scaled_colors(colors), height=True)
            for p in (points, moved)
        ]
        torch.testing.assert_close(*features)

    def test_without_height_colours_alone(self):
        points, colors = cloud()
        assert torch.equal(
            point_features(points, scaled_colors(colors), height=False),
            scaled_colors(colors),
        )

    def test_colours_are_scaled_to_one(self):
        scaled = scaled_colors(torch.tensor([[0, 255, 51]], dtype=torch.uint8))
        torch.testing.assert_close(scaled, torch.tensor([[-1.0, 1.0, -0.6]]))

    @pytest.mark.parametrize(("height", "channels"), [(True, 4), (False, 3)])
    def test_the_first_layer_takes_that_many_channels(self, height, channels):
        network = PointNetwork(NetworkSettings(channels=8, height=height))
        assert network.unet.conv0p1s1.kernel.shape[1] == channels
        assert point_scores(network, *cloud(), words()).shape == (300, 3)

    def test_a_batch_keeps_its_clouds_apart(self, network):
        """Two clouds in one batch get what each gets alone, and rows count
        through."""
        clouds = [
            (points, point_features(points, scaled_colors(colors), True))
            for points, colors in (cloud(200, 1), cloud(150, 2))
        ]
        with torch.no_grad():
            inputs, rows = voxel_inputs(network, clouds)
            together = network(inputs)[rows]
            alone = []
            for one in clouds:
                inputs, rows = voxel_inputs(network, [one])
                alone.append(network(inputs)[rows])
        torch.testing.assert_close(
            together, torch.cat(alone), atol=1e-4, rtol=1e-4
        )

    def test_a_voxel_carries_the_mean_of_its_points(self, network):
        points = torch.tensor(
            [[0.01, 0.01, 0.01], [0.07, 0.07, 0.07], [0.09, 0.01, 0.01]]
        )
        inputs, rows = voxel_inputs(
            network, [(points, torch.tensor([[1.0] * 4, [3.0] * 4, [7.0] * 4]))]
        )
        assert rows.tolist() == [0, 0, 1]
        assert inputs.features[:, 0].tolist() == [2.0, 7.0]


def standing(points, turn=TURN, shift=0.5):
    """By hand, where one pass puts a cloud: turned, its lowest corner at
    ``shift`` voxels from the origin."""
    sine, cosine = math.sin(turn), math.cos(turn)
    x, y, z = points.unbind(1)
    turned = torch.stack(
        [cosine * x - sine * y, sine * x + cosine * y, z], dim=1
    )
    return turned - turned.amin(dim=0) + 0.08 * shift


class TestScores:
    def test_the_order_of_the_points_only_permutes_the_scores(self, network):
        points, colors = cloud()
        order = torch.randperm(
            len(points), generator=torch.Generator().manual_seed(3)
        )
        scores = point_scores(network, points, colors, words(), augmentations=2)
        shuffled = point_scores(
            network, points[order], colors[order], words(), augmentations=2
        )
        torch.testing.assert_close(
            shuffled, scores[order], atol=1e-5, rtol=1e-4
        )
        assert scores.std(dim=0).min() > 1e-3, "else the order could not show"

    def test_embeddings_give_cosines_with_the_text(self, network):
        points, colors = cloud()
        text = words()
        scores = point_scores(network, points, colors, text)
        with torch.no_grad():
            features = point_features(points, scaled_colors(colors), True)
            inputs, rows = voxel_inputs(network, [(standing(points), features)])
            embeddings = network(inputs)[rows]
        for k in range(len(text)):
            expected = torch.cosine_similarity(embeddings, text[k : k + 1])
            torch.testing.assert_close(
                scores[:, k], expected, atol=1e-5, rtol=1e-5
            )
        torch.testing.assert_close(
            point_scores(network, points, colors, 7 * text), scores
        )

    def test_scores_come_as_the_network_gives_them(self, classifier):
        points, colors = cloud()
        with torch.no_grad():
            features = point_features(points, scaled_colors(colors), True)
            inputs, rows = voxel_inputs(
                classifier, [(standing(points), features)]
            )
            expected = classifier(inputs)[rows]
        torch.testing.assert_close(
            point_scores(classifier, points, colors),
            expected,
            atol=1e-5,
            rtol=1e-5,
        )

    def test_points_of_one_voxel_share_their_scores(self, classifier):
        points = torch.tensor(
            [[0.0, 0.0, 0.0], [0.02, 0.02, 0.02], [0.5, 0.5, 0.5]]
        )
        scores = point_scores(
            classifier,
            points,
            torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0]]).byte(),
        )
        assert torch.equal(scores[0], scores[1])
        assert not torch.equal(scores[0], scores[2])

    def test_it_does_not_matter_where_a_cloud_stands(self, network):
        points, colors = cloud()
        moved = points + torch.tensor([3.21, -17.03, 1.4])
        scores = [
            point_scores(network, p, colors, words()) for p in (points, moved)
        ]
        close = (scores[0] - scores[1]).abs().amax(dim=1) < 1e-3
        # a point on the border of a voxel may change sides by rounding
        assert close.float().mean() > 0.95

    def test_a_network_in_training_mode_is_not_changed_by_asking(self):
        network = PointNetwork(EMBEDDINGS, seed=1).train()
        before = {
            name: tensor.clone()
            for name, tensor in network.state_dict().items()
        }
        point_scores(network, *cloud(), words())
        assert all(
            torch.equal(tensor, before[name])
            for name, tensor in network.state_dict().items()
        )

    @pytest.mark.parametrize("norm", ["batch", "instance"])
    def test_one_point(self, norm):
        network = PointNetwork(NetworkSettings(channels=8, norm=norm))
        scores = point_scores(network, *cloud(1), words(), augmentations=3)
        assert scores.shape == (1, 3)
        assert bool(scores.isfinite().all())

    def test_wrong_company(self, network, classifier):
        points, colors = cloud(20)
        with pytest.raises(ValueError, match="it takes no text embeddings"):
            point_scores(classifier, points, colors, words())
        with pytest.raises(
            ValueError, match="it needs the text embeddings of the classes"
        ):
            point_scores(network, points, colors)
        with pytest.raises(
            ValueError,
            match=(
                "text embeddings of 6 numbers for point embeddings of 8: take"
                " the text"
            ),
        ):
            point_scores(network, points, colors, words(3, 6))
        with pytest.raises(
            ValueError,
            match="unknown output 'labels'; known: embeddings, scores",
        ):
            NetworkSettings(output="labels")


class TestTestTimeAugmentation:
    def test_passes_are_averaged(self, classifier):
        """By hand: the cloud in three poses, each with the height of the
        upright cloud."""
        points, colors = cloud()
        features = point_features(points, scaled_colors(colors), True)
        generator = torch.Generator().manual_seed(4)
        views = [standing(points)]
        for index in (1, 2):
            views.append(
                standing(
                    points,
                    TURN + index * 2 * math.pi / 3,
                    torch.rand(3, generator=generator),
                )
            )
        outputs = []
        with torch.no_grad():
            for view in views:
                inputs, rows = voxel_inputs(classifier, [(view, features)])
                outputs.append(classifier(inputs)[rows])
        scores = point_scores(
            classifier, points, colors, augmentations=3, seed=4
        )
        torch.testing.assert_close(
            scores, torch.stack(outputs).mean(dim=0), atol=1e-5, rtol=1e-5
        )

    def test_a_seed_decides(self, network):
        ask = [
            point_scores(network, *cloud(), words(), augmentations=2, seed=seed)
            for seed in (0, 0, 1)
        ]
        assert torch.equal(ask[0], ask[1])
        assert not torch.equal(ask[0], ask[2])

    def test_cosines_stay_cosines(self, network):
        scores = point_scores(network, *cloud(), words(), augmentations=4)
        assert scores.abs().max() <= 1.0 + 1e-5

    def test_points_of_one_voxel_may_differ_after_more_passes(self, classifier):
        """The grid is moved within a voxel: two points that share one voxel
        need not share the next."""
        points = torch.tensor(
            [[0.0, 0.0, 0.0], [0.02, 0.02, 0.02], [0.5, 0.5, 0.5]]
        )
        colors = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0]]).byte()
        scores = point_scores(classifier, points, colors, augmentations=4)
        assert not torch.equal(scores[0], scores[1])

    @pytest.mark.parametrize("augmentations", [0, -1])
    def test_no_passes(self, network, augmentations):
        with pytest.raises(
            ValueError, match=f"at least one is needed, found {augmentations}"
        ):
            point_scores(
                network, *cloud(20), words(), augmentations=augmentations
            )


class TestFile:
    @pytest.mark.parametrize(
        "settings",
        [
            EMBEDDINGS,
            SCORES,
            NetworkSettings(
                "MinkUNetSmall", 16, 0.1, "instance", False, "embeddings"
            ),
        ],
        ids=["embeddings", "scores", "instance"],
    )
    def test_the_round_trip(self, tmp_path, settings):
        network = PointNetwork(settings, seed=5)
        about = {
            "class_set": {"name": "own", "names": ["a", "b"]},
            "teacher": "small-attributes",
        }
        save_network(
            tmp_path / "new" / "n.safetensors", network, half=False, **about
        )
        loaded, said = load_network(tmp_path / "new" / "n.safetensors")
        assert loaded.settings == settings
        assert {name: said[name] for name in about} == about
        assert not loaded.training
        text = (
            words(3, settings.channels)
            if settings.output == "embeddings"
            else None
        )
        assert torch.equal(
            point_scores(loaded, *cloud(), text),
            point_scores(network, *cloud(), text),
        )

    def test_half_precision_halves_the_file_and_hardly_the_scores(
        self, tmp_path
    ):
        network = PointNetwork(SCORES, seed=5)
        save_network(tmp_path / "half", network)
        save_network(tmp_path / "full", network, half=False)
        sizes = [(tmp_path / name).stat().st_size for name in ("half", "full")]
        assert sizes[0] < 0.52 * sizes[1]
        loaded, _ = load_network(tmp_path / "half")
        for name, tensor in network.state_dict().items():
            expected = (
                tensor.half().float() if tensor.is_floating_point() else tensor
            )
            assert torch.equal(loaded.state_dict()[name], expected)
        scores = point_scores(network, *cloud())
        error = (point_scores(loaded, *cloud()) - scores).abs().max()
        assert 0 < error < 0.02 * scores.abs().max()
        assert next(network.parameters()).dtype == torch.float32, (
            "saving leaves the network as it is"
        )

    def test_a_file_that_is_missing_or_cut(self, tmp_path):
        path = tmp_path / "n.safetensors"
        with pytest.raises(StoreError, match=r"n\.safetensors: no such file"):
            load_network(path)
        save_network(path, PointNetwork(SCORES))
        whole = path.read_bytes()
        for length in (0, 4, 9, 500, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(
                StoreError, match="not a whole safetensors file"
            ):
                load_network(path)

    def test_a_file_of_another_kind(self, tmp_path):
        save_tensors(
            tmp_path / "a", {"x": torch.zeros(2)}, {"format": "something else"}
        )
        with pytest.raises(
            StoreError,
            match=(
                r"expected a network of this library .* found 'something else'"
            ),
        ):
            load_network(tmp_path / "a")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"architecture": "MinkUNet14A"},
                r"Error\(s\) in loading state_dict",
            ),
            ({"architecture": "MinkUNet99"}, "unknown network 'MinkUNet99'"),
            ({"channels": 6}, "final"),
            ({"height": False}, "conv0p1s1"),
            ({"output": "labels"}, "unknown output 'labels'"),
            ({"norm": "layer"}, "unknown normalisation 'layer'"),
            ({"colour": "red"}, "colour"),
        ],
    )
    def test_weights_that_do_not_fit_their_settings(
        self, tmp_path, change, message
    ):
        network = PointNetwork(SCORES)
        save_network(tmp_path / "good", network)
        tensors, said = load_tensors(tmp_path / "good")
        said["settings"] = said["settings"] | change
        save_tensors(tmp_path / "bad", tensors, said)
        with pytest.raises(
            StoreError,
            match=rf"bad: weights and settings do not fit \(.*({message})",
        ) as caught:
            load_network(tmp_path / "bad")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500 + len(str(tmp_path))
        assert "known networks: MinkUNet14A" in str(caught.value)

    def test_settings_that_are_missing(self, tmp_path):
        tensors = PointNetwork(SCORES).unet.state_dict()
        save_tensors(
            tmp_path / "bad", tensors, {"format": "vlg_lib point network 1"}
        )
        with pytest.raises(StoreError, match="weights and settings do not fit"):
            load_network(tmp_path / "bad")

    def test_settings_are_plain_json(self):
        assert (
            NetworkSettings(**json.loads(json.dumps(asdict(SCORES)))) == SCORES
        )

    def test_the_seed_makes_the_first_weights(self):
        first, again, other = (
            PointNetwork(SCORES, seed=seed).state_dict() for seed in (0, 0, 1)
        )
        assert all(
            torch.equal(tensor, again[name]) for name, tensor in first.items()
        )
        assert not torch.equal(
            first["unet.final.kernel"], other["unet.final.kernel"]
        )


def test_a_gradient_reaches_every_weight() -> None:
    network = PointNetwork(EMBEDDINGS).train()
    points, colors = cloud()
    inputs, rows = voxel_inputs(
        network, [(points, point_features(points, scaled_colors(colors), True))]
    )
    loss = (
        1
        - normalize(network(inputs)[rows], dim=1) @ normalize(words(1), dim=1).T
    ).mean()
    loss.backward()
    without = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert without == []


def test_a_path_is_a_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        load_network(tmp_path)
