"""Published networks: files of their layout are made here, as ``torch.save``
writes them."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from dense_grid import cloud

from vlg_lib.artifacts import StoreError
from vlg_lib.classes import SCANNET_20
from vlg_lib.convert.openscene_network import (
    LSEG_TEXT_TOWER,
    PublishedNetwork,
    convert_network,
)
from vlg_lib.data.ply import write_points
from vlg_lib.networks.mink_unet import create_mink_unet
from vlg_lib.networks.openscene import load_published
from vlg_lib.networks.point_network import load_network
from vlg_lib.own_scan.predict import predict
from vlg_lib.vision_language import model_dim
from vlg_lib.vision_language.openseg import TEXT_TOWER


def published_file(path, network, prefix="module.net3d.", **more):
    """A distillation checkpoint: weights under prefixes beside what else
    training keeps."""
    weights = {
        prefix + name: tensor for name, tensor in network.state_dict().items()
    }
    optimizer = torch.optim.Adam(network.parameters()).state_dict()
    torch.save(
        {
            "epoch": 100,
            "state_dict": weights,
            "optimizer": optimizer,
            "best_iou": np.float64(0.4974),
        }
        | more,
        path,
    )
    return path


@pytest.fixture(scope="module")
def small():
    """A network of the published kind, small: colours in, no bias in the last
    layer, statistics of some voxels."""
    network = create_mink_unet("MinkUNetSmall", 3, 64, head_bias=False, seed=5)
    coordinates = cloud(seed=2, voxels=200, reach=6)
    network.train()(
        network.engine.SparseTensor(
            torch.rand(len(coordinates), 3), coordinates
        )
    )
    return network.eval()


def test_the_published_network_has_the_published_size(tmp_path):
    network = create_mink_unet("MinkUNet18A", 3, 768, head_bias=False)
    path = tmp_path / "model_best.pth.tar"
    torch.save(
        {
            "state_dict": {
                f"module.net3d.{name}": tensor
                for name, tensor in network.state_dict().items()
            }
        },
        path,
    )
    loaded = load_published(path)
    assert sum(
        parameter.numel() for parameter in loaded.parameters()
    ) / 1e6 == pytest.approx(15.56, abs=0.005)
    assert (
        loaded.settings.channels,
        loaded.settings.voxel_size,
        loaded.settings.height,
    ) == (768, 0.02, False)
    assert not loaded.training


@pytest.mark.parametrize(
    "prefix",
    ["module.net3d.", "net3d.", "module.", "", "_orig_mod.module.", "a.model."],
)
def test_the_network_answers_as_the_one_that_was_saved(small, tmp_path, prefix):
    loaded = load_published(
        published_file(tmp_path / "model.pth", small, prefix),
        architecture="MinkUNetSmall",
    )
    coordinates = cloud(seed=3, voxels=90, reach=6)
    x = small.engine.SparseTensor(torch.rand(len(coordinates), 3), coordinates)
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x).features)


def loads(path, network):
    """Whether the file is read as the network."""
    loaded = load_published(
        path, architecture="MinkUNetSmall"
    ).unet.state_dict()
    return all(
        torch.equal(loaded[name], tensor)
        for name, tensor in network.state_dict().items()
    )


@pytest.mark.parametrize(
    "entries",
    [
        ("model",),
        ("model_state_dict",),
        ("network",),
        ("state", "model"),
        ("pytorch-lightning", "callbacks", "best"),
    ],
)
def test_weights_under_another_entry_are_read(small, tmp_path, entries):
    content = {
        f"backbone.{name}": tensor
        for name, tensor in small.state_dict().items()
    }
    for entry in reversed(entries):
        content = {entry: content, "epoch": 3}
    torch.save(content, tmp_path / "model.pth")
    assert loads(tmp_path / "model.pth", small)


def test_kernels_of_one_offset_in_the_shape_of_minkowski_engine_0_4(
    small, tmp_path
):
    """(1, C_in, C_out) where 0.5 has (C_in, C_out)."""
    weights = {
        name: tensor[None]
        if name.endswith("kernel") and tensor.ndim == 2
        else tensor
        for name, tensor in small.state_dict().items()
    }
    changed = [
        name
        for name, tensor in small.state_dict().items()
        if weights[name].shape != tensor.shape
    ]
    assert "final.kernel" in changed
    assert len(changed) > 1
    torch.save({"state_dict": weights}, tmp_path / "model.pth")
    assert loads(tmp_path / "model.pth", small)
    weights["final.kernel"] = weights["final.kernel"].mT
    torch.save({"state_dict": weights}, tmp_path / "model.pth")
    with pytest.raises(StoreError, match=r"of another shape.*final\.kernel"):
        load_published(tmp_path / "model.pth", architecture="MinkUNetSmall")


def test_of_two_networks_that_fit_none_is_chosen(small, tmp_path):
    path, weights = tmp_path / "model.pth", small.state_dict()
    moved = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"state_dict": weights, "ema": moved}, path)
    with pytest.raises(
        StoreError,
        match=r"model\.pth: holds several networks.*'state_dict'.*'ema'.*alone",
    ):
        load_published(path, architecture="MinkUNetSmall")
    torch.save({"state_dict": weights, "ema": dict(weights)}, path)
    assert loads(path, small), "the same network twice is one"
    part = {"final.kernel": moved["final.kernel"]}
    torch.save({"state_dict": weights, "other": part}, path)
    assert loads(path, small), "a part is no network"
    for first, second in (("student.", "teacher."), ("", "teacher.")):
        torch.save(
            {first + name: tensor for name, tensor in weights.items()}
            | {second + name: tensor for name, tensor in moved.items()},
            path,
        )
        with pytest.raises(StoreError, match=r"unexpected: .*and \d+ more"):
            load_published(path, architecture="MinkUNetSmall")


def test_what_stands_beside_the_network_is_told(small, tmp_path):
    path = tmp_path / "model.pth"
    weights = {f"net.{k}": v for k, v in small.state_dict().items()}
    torch.save({"state_dict": weights | {"text.weight": torch.ones(2)}}, path)
    with pytest.raises(
        StoreError,
        match=r"under 'state_dict', names after 'net\.'\)\. unexpected:"
        r" text\.weight without 'net\.'$",
    ):
        load_published(path, architecture="MinkUNetSmall")


@pytest.mark.parametrize(
    "score", [np.float32(0.5), np.int64(3), np.bool_(True)]
)
def test_numbers_beside_the_weights_are_read(small, tmp_path, score):
    load_published(
        published_file(tmp_path / "model.pth", small, best_iou=score),
        architecture="MinkUNetSmall",
    )


def test_numbers_under_the_name_that_numpy_1_gave_them_are_read(
    small, tmp_path
):
    path, old = (
        published_file(tmp_path / "new.pth", small),
        tmp_path / "old.pth",
    )
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(old, "w") as rewritten:
        for entry in new.namelist():
            content = new.read(entry)
            if entry.endswith("data.pkl"):
                assert content.count(b"cnumpy._core.multiarray\nscalar") == 1
                content = content.replace(
                    b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"
                )
            rewritten.writestr(entry, content)
    load_published(old, architecture="MinkUNetSmall")


class Foreign:
    """What a pickle of somebody else's program may hold; reading it naively
    would call this."""

    def __reduce__(self):
        return (exec, ("raise SystemError('the code of the file was run')",))


def test_a_file_that_would_run_code_is_refused(small, tmp_path):
    path = published_file(tmp_path / "model.pth", small, arguments=Foreign())
    with pytest.raises(
        StoreError,
        match=r"model\.pth: expected a file of torch\.save.*\(GLOBAL .*exec\)",
    ):
        load_published(path)
    path.write_bytes(pickle.dumps({"state_dict": Foreign()}, protocol=2))
    with pytest.raises(StoreError, match="is not read"):
        load_published(path)


def test_cut_missing_and_other_files_are_refused(small, tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        load_published(tmp_path / "none.pth")
    path = published_file(tmp_path / "model.pth", small)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(StoreError, match="get it again if it is cut"):
        load_published(path)
    path.write_text("not a checkpoint")
    with pytest.raises(StoreError, match="get it again if it is cut"):
        load_published(path)
    torch.save([1, 2], path)
    with pytest.raises(
        StoreError, match="expected tensors under 'state_dict', found list"
    ):
        load_published(path)
    torch.save({"state_dict": {"weight": torch.ones(1)}}, path)
    with pytest.raises(
        StoreError, match=r"final\.kernel is missing, there are weight$"
    ):
        load_published(path)


def test_weights_of_another_network_are_named(small, tmp_path):
    weights = small.state_dict()
    extra = weights.pop("bn0.bn.bias")
    weights["bn9.bn.bias"] = extra
    weights["conv0p1s1.kernel"] = torch.zeros(27, 6, 16)
    path = tmp_path / "model.pth"
    torch.save(weights, path)
    with pytest.raises(StoreError) as caught:
        load_published(path, architecture="MinkUNetSmall")
    message = str(caught.value)
    assert "missing: bn0.bn.bias;" in message
    assert "unexpected: bn9.bn.bias;" in message
    assert (
        "of another shape: conv0p1s1.kernel (expected (27, 3, 16), found (27,"
        " 6, 16))" in message
    )
    with pytest.raises(
        StoreError, match=r"not the weights of a MinkUNet18A.*and \d+ more"
    ):
        load_published(path)


def test_a_converted_network_predicts(small, tmp_path):
    source, out = (
        published_file(tmp_path / "model.pth.tar", small),
        tmp_path / "mine.safetensors",
    )
    chosen = PublishedNetwork(
        classes=("wall", "floor", "chair"),
        architecture="MinkUNetSmall",
        voxel_size=0.1,
        teacher="small-attributes",
    )
    assert "64 numbers a point" in str(convert_network(source, out, chosen))
    network, about = load_network(out)
    assert network.settings.voxel_size == 0.1
    assert about["class_set"]["names"] == ["wall", "floor", "chair"]
    for name, tensor in small.state_dict().items():
        assert torch.equal(network.unet.state_dict()[name], tensor), name
    points = torch.rand(500, 3) * torch.tensor([3.0, 3.0, 2.0])
    write_points(
        tmp_path / "scan.ply",
        points,
        torch.randint(256, (500, 3), dtype=torch.uint8),
    )
    prediction = predict(
        tmp_path / "scan.ply",
        out,
        None,
        tmp_path / "labelled.ply",
        progress=False,
        device="cpu",
    )
    assert len(prediction.labels) == 500
    assert prediction.class_set.names == ("wall", "floor", "chair")


@pytest.mark.parametrize(
    ("channels", "teacher"), [(768, TEXT_TOWER), (512, LSEG_TEXT_TOWER)]
)
def test_the_text_tower_follows_the_numbers(channels, teacher, tmp_path):
    """OpenSeg's and LSeg's; of one class, which is a set of one."""
    network = create_mink_unet("MinkUNetSmall", 3, channels, head_bias=False)
    source = published_file(tmp_path / "model.pth", network)
    out = tmp_path / "mine.safetensors"
    settings = PublishedNetwork(
        classes=("chair",), architecture="MinkUNetSmall"
    )
    assert f"texts by {teacher}" in str(convert_network(source, out, settings))
    _, about = load_network(out)
    assert about["teacher"] == teacher
    assert about["class_set"]["names"] == ["chair"]
    assert model_dim(teacher) == channels


def test_one_word_is_a_class_unless_it_is_the_name_of_a_set():
    for word, names in (
        ("chair", ("chair",)),
        ("椅子", ("椅子",)),
        ("scannet-20", SCANNET_20.names),
    ):
        assert PublishedNetwork(classes=(word,)).known_classes().names == names


def test_a_conversion_that_fails_writes_nothing(small, tmp_path):
    source, out = (
        published_file(tmp_path / "model.pth", small),
        tmp_path / "mine.safetensors",
    )
    for given, message in (
        ({"class_set": "rooms-99"}, "unknown class set 'rooms-99'"),
        ({"prompt": "a chair"}, r"must hold \{name\}"),
        ({}, "not the weights of a MinkUNet18A"),
        ({"class_set": ""}, "name one of the two"),
        ({"classes": ("cup", "plate")}, "name one of the two"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_network(
                source,
                out,
                PublishedNetwork(**({"class_set": "scannet-20"} | given)),
            )
    for teacher, message in (
        (None, r"gives 64 numbers a point.*768 and 512.*--teacher"),
        ("openseg", r"64 numbers a point.*openseg have 768"),
        (TEXT_TOWER, r"64 numbers a point.*have 768"),
        (LSEG_TEXT_TOWER, r"64 numbers a point.*have 512"),
        ("open_clip/ViT-B-16/openai/maskclip", "'ViT-B-16-quickgelu'"),
        ("openscene", "unknown vision-language model 'openscene'"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_network(
                source,
                out,
                PublishedNetwork(
                    "scannet-20",
                    architecture="MinkUNetSmall",
                    teacher=teacher,
                ),
            )
    with pytest.raises(ValueError, match="a class without a name"):
        convert_network(
            source,
            out,
            PublishedNetwork(
                classes=("chair", " "), architecture="MinkUNetSmall"
            ),
        )
    with pytest.raises(
        ValueError, match=r"expected the name of a \.safetensors file"
    ):
        convert_network(
            source, tmp_path / "mine.pth", PublishedNetwork("scannet-20")
        )
    assert not list(tmp_path.glob("mine*"))
