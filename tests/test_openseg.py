"""OpenSeg behind its signature: a stand-in that answers as the published model
does, and a tiny SavedModel.

The published model itself takes 30 GB of a GPU and is not tried here. The
SavedModel is tried where TensorFlow is installed (``pip install
'vlg-lib[openseg]'``)."""

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.base import VisionLanguageModel
from vlg_lib.vision_language.openseg import (
    DIM,
    SIGNATURE,
    OpenSegModel,
    checked_signature,
)

GRID = 64  # the published model's is 640


@dataclass
class Shape:
    sizes: tuple | None

    @property
    def rank(self) -> int | None:
        return None if self.sizes is None else len(self.sizes)

    def is_compatible_with(self, other: tuple) -> bool:
        if self.sizes is None:
            return True
        pairs = list(zip(self.sizes, other, strict=False))
        return len(self.sizes) == len(other) and all(
            a is None or b is None or a == b for a, b in pairs
        )


def spec(dtype: str, sizes: tuple | None) -> SimpleNamespace:
    return SimpleNamespace(
        dtype=SimpleNamespace(name=dtype), shape=Shape(sizes)
    )


class StandIn:
    """Scales the image's longer side to the grid (nearest pixel) and answers
    with its colour in the first channels.

    What lies beside the image on the grid is 9 everywhere, so that a wrong crop
    shows."""

    def __init__(self, scale_error: float = 0.0) -> None:
        self.structured_input_signature = (
            (),
            {name: spec(*SIGNATURE[name]) for name in list(SIGNATURE)[:2]},
        )
        self.structured_outputs = {
            name: spec(*SIGNATURE[name]) for name in list(SIGNATURE)[2:]
        }
        self.scale_error = scale_error

    def __call__(
        self, *, inp_image_bytes: bytes, inp_text_emb: np.ndarray
    ) -> dict[str, np.ndarray]:
        assert inp_text_emb.dtype == np.float32
        assert inp_text_emb.shape[2] == DIM
        image = Image.open(io.BytesIO(inp_image_bytes)).convert("RGB")
        scale = GRID / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        answer = np.full((1, GRID, GRID, DIM), 9, np.float32)
        answer[0, :height, :width] = 0
        answer[0, :height, :width, :3] = np.asarray(
            image.resize((width, height), Image.Resampling.NEAREST)
        )
        scales = (
            np.array([height / image.height, width / image.width])
            - self.scale_error
        )
        info = np.array(
            [[image.height, image.width], [GRID, GRID], scales, [0, 0]],
            np.float32,
        )
        return {"ppixel_ave_feat": answer, "image_info": info}


class Words(VisionLanguageModel):
    name, dim, stride = "words", DIM, 1

    def dense_embeddings(self, image: Tensor) -> Tensor:
        raise AssertionError("only texts are asked for")

    def text_embeddings(self, texts: list[str]) -> Tensor:
        return normalize(
            torch.tensor(
                [[float(len(text) + i) for i in range(DIM)] for text in texts]
            ),
            dim=1,
        )


def model_with(signature: StandIn) -> OpenSegModel:
    model = OpenSegModel()
    model.__dict__["_signature"] = checked_signature(signature)
    return model


def picture(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(
        1, 256, (height, width, 3), generator=generator, dtype=torch.uint8
    )


@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (64, 48), (64, 64), (24, 32), (96, 128)]
)
def test_the_map_is_what_the_image_fills_of_the_grid(
    height: int, width: int
) -> None:
    image = picture(height, width)
    dense = model_with(StandIn()).dense_embeddings(image)
    rows, columns = (
        round(side * GRID / max(height, width)) for side in (height, width)
    )
    assert dense.shape == (rows, columns, DIM)
    assert dense.dtype == torch.float32
    v, u = (
        torch.arange(n) * side // n
        for n, side in ((rows, height), (columns, width))
    )
    if height <= GRID:  # nearest pixels are exact where the image grows
        expected = normalize(image[v][:, u].float(), dim=-1)
        assert torch.allclose(dense[..., :3], expected, atol=1e-6)
    assert not dense[..., 3:].any()


@pytest.mark.parametrize("scale_error", [1e-6, -1e-6])
def test_a_scale_that_is_rounded_down_costs_no_row(scale_error: float) -> None:
    assert model_with(StandIn(scale_error)).dense_embeddings(
        picture(48, 64)
    ).shape[:2] == (48, 64)


def test_cells_without_an_embedding_stay_zero() -> None:
    image = picture(48, 64)
    image[10, 20] = 0
    norms = model_with(StandIn()).dense_embeddings(image).norm(dim=-1)
    assert float(norms[10, 20]) == 0
    assert torch.allclose(norms[norms > 0], torch.ones(48 * 64 - 1), atol=1e-5)


def test_a_file_is_embedded_as_it_is() -> None:
    """The bytes reach the model untouched: a JPEG is not decoded here and
    encoded again."""
    seen: list[bytes] = []

    class Listening(StandIn):
        def __call__(self, **arguments) -> dict[str, np.ndarray]:
            seen.append(arguments["inp_image_bytes"])
            return super().__call__(**arguments)

    file = io.BytesIO()
    Image.fromarray(picture(48, 64).numpy()).save(file, "JPEG")
    assert model_with(Listening()).embed_file(file.getvalue()).shape == (
        48,
        64,
        DIM,
    )
    assert seen == [file.getvalue()]


@pytest.mark.parametrize("size", [(0, 64), (48, GRID + 1), (-3, 5)])
def test_a_size_that_is_not_on_the_grid_is_refused(
    size: tuple[int, int],
) -> None:
    class Wrong(StandIn):
        def __call__(self, **arguments) -> dict[str, np.ndarray]:
            info = np.array([size, [GRID, GRID], [1, 1], [0, 0]], np.float32)
            return super().__call__(**arguments) | {"image_info": info}

    with pytest.raises(
        ValueError, match=r"openseg: image_info says .* cells of a grid"
    ):
        model_with(Wrong()).dense_embeddings(picture(48, 64))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("inp_image_bytes", None),
        ("inp_image_bytes", spec("float32", ())),
        ("inp_image_bytes", spec("string", (None,))),
        ("inp_text_emb", spec("float32", (None, None, 512))),
        ("ppixel_ave_feat", spec("float16", (1, 640, 640, 768))),
        ("ppixel_ave_feat", spec("float32", (640, 640, 768))),
        ("image_info", spec("float32", (1, 4, 2))),
        ("image_info", None),
    ],
)
def test_another_signature_is_refused(
    name: str, found: SimpleNamespace | None
) -> None:
    signature = StandIn()
    for specs in (
        signature.structured_input_signature[1],
        signature.structured_outputs,
    ):
        if name in specs:
            specs[name] = found
            if found is None:
                del specs[name]
    with pytest.raises(
        ValueError,
        match=(
            rf"openseg: expected '{name}' .* is this the SavedModel of"
            r" OpenSeg\?"
        ),
    ):
        checked_signature(signature)
    with pytest.raises(
        ValueError, match=r"expected 'inp_image_bytes' .* found \[\]"
    ):
        checked_signature(None)


def test_unknown_and_known_sizes_are_accepted() -> None:
    signature = StandIn()
    signature.structured_outputs = {
        "ppixel_ave_feat": spec("float32", (1, 640, 640, DIM)),
        "image_info": spec("float32", None),
    }
    assert checked_signature(signature) is signature


def test_texts_need_no_tensorflow() -> None:
    texts = OpenSegModel(text_model=Words()).text_embeddings(["chair", "a"])
    assert torch.equal(texts, Words().text_embeddings(["chair", "a"]))


def test_segmenting_compares_both() -> None:
    texts = torch.zeros(2, DIM)
    texts[0, 0], texts[1, 1] = 1, 1  # red, green
    image = torch.zeros(48, 64, 3, dtype=torch.uint8)
    image[:, :32, 0], image[:, 32:, 1] = 200, 100
    assert model_with(StandIn()).segment(image, texts)[:, [0, 63]].unique(
        dim=0
    ).tolist() == [[0, 1]]


def test_a_missing_model_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLG_OPENSEG", raising=False)
    for model, found in (
        (OpenSegModel(), "None"),
        (OpenSegModel(tmp_path), str(tmp_path)),
    ):
        with pytest.raises(
            ValueError,
            match=(
                f"saved_model.pb.*found {found}.*VLG_OPENSEG.*embedding_files"
            ),
        ):
            model.dense_embeddings(picture(48, 64))
    (tmp_path / "saved_model.pb").touch()
    monkeypatch.setenv("VLG_OPENSEG", str(tmp_path))
    monkeypatch.setattr(
        "vlg_lib.vision_language.openseg.find_spec", lambda name: None
    )
    with pytest.raises(
        ValueError, match=r"needs TensorFlow: pip install 'vlg-lib\[openseg\]'"
    ):
        OpenSegModel().dense_embeddings(picture(48, 64))


@pytest.mark.parametrize(
    "image", [torch.rand(48, 64, 3), torch.zeros(3, 48, 64, dtype=torch.uint8)]
)
def test_other_images_are_refused(image: Tensor) -> None:
    with pytest.raises((ValueError, TypeError)):
        model_with(StandIn()).dense_embeddings(image)


def test_it_is_known_by_its_name() -> None:
    assert create_model("openseg").dim == DIM


MAKE_SAVED_MODEL = """
import json, sys
import numpy as np, tensorflow as tf

class Tiny(tf.Module):
    @tf.function(input_signature=[
        tf.TensorSpec([], tf.string, "inp_image_bytes"),
        tf.TensorSpec([None, None, 768], tf.float32, "inp_text_emb"),
    ])
    def serve(self, inp_image_bytes, inp_text_emb):
        image = tf.io.decode_image(
            inp_image_bytes, channels=3, expand_animations=False
        )
        image = tf.cast(image, tf.float32)
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        scaled = tf.round(size * 640.0 / tf.reduce_max(size))
        cells = tf.cast(scaled, tf.int32)
        grown = tf.image.resize(image, cells, method="nearest")
        beside = 640 - cells
        grid = tf.pad(grown, [[0, beside[0]], [0, beside[1]], [0, 765]])
        grid_size = tf.constant([640.0, 640.0])
        info = tf.stack([size, grid_size, scaled / size, tf.zeros(2)])
        return {"ppixel_ave_feat": grid[None], "image_info": info}

tiny = Tiny()
signatures = {"serving_default": tiny.serve}
tf.saved_model.save(tiny, sys.argv[1], signatures=signatures)
import torch
from vlg_lib.vision_language.openseg import OpenSegModel
generator = torch.Generator().manual_seed(0)
image = torch.randint(1, 256, (60, 80, 3), generator=generator).byte()
dense = OpenSegModel(sys.argv[1]).dense_embeddings(image)
expected = torch.nn.functional.normalize(image.float(), dim=-1)
expected = expected.repeat_interleave(8, 0).repeat_interleave(8, 1)
farthest = float((dense[..., :3] - expected).abs().max())
print(json.dumps([list(dense.shape), farthest]))
"""


def test_a_saved_model_of_the_same_signature(tmp_path: Path) -> None:
    """In a process of its own: TensorFlow and torch share no import order."""
    pytest.importorskip("tensorflow", reason="TensorFlow is an optional extra")
    command = [sys.executable, "-c", MAKE_SAVED_MODEL, str(tmp_path / "model")]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert answer.returncode == 0, answer.stderr
    shape, difference = json.loads(answer.stdout.splitlines()[-1])
    assert shape == [480, 640, DIM]
    assert difference < 1e-6
