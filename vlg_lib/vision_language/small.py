"""The small models: CLIPs for the procedural rooms, small enough to ship and to
train on a laptop.

Two towers meet in 64 dimensions: a feature pyramid over the whole frame gives
one vector for every 4 x 4 pixels, and open_clip's text transformer one vector a
text. What their sentences were attached to in training (``data_scripts/
train_small_vlm.py``) makes the dense map sharp or not: to each *region* of an
image, to regions that the model had to find itself, as in OpenSeg (Ghiasi et
al., ECCV 2022), or to whole images, as in CLIP. A card beside each file of
weights says what it saw.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from vlg_lib.artifacts import StoreError, hash_files, load_tensors
from vlg_lib.vision_language.base import (
    VisionLanguageModel,
    check_image,
    check_texts,
)
from vlg_lib.vision_language.small_text import TextTower
from vlg_lib.vision_language.small_tokenizer import tokenize

DIM = 64
_CHANNELS = (32, 48, 96, 160)
_BLOCKS = (1, 1, 3, 1)
_WIDTH = 64
_STRIDE = 4
_SMALLEST = 32
WEIGHTS = Path(__file__).parent / "weights"
SMALL_MODELS = {
    "small-attributes": "region",
    "small-grounded": "grounded",
    "small-clip": "clip",
}
"""The names of the small models, and what ``data_scripts/train_small_vlm.py``
calls the training of each."""


def _convolution(
    inputs: int, outputs: int, size: int = 3, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Block(nn.Module):
    """Two 3x3 convolutions and a skip (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class VisualTower(nn.Module):
    """A small feature pyramid (Lin et al., 2017): strides 2, 4, 8 and 16,
    merged top-down into one map of stride 4.

    A global-context vector, the mean of the coarsest map, is added everywhere:
    what a thing is depends on the room.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_CHANNELS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                _convolution(i, o, stride=2),
                nn.ReLU(),
                *(_Block(o) for _ in range(blocks)),
            )
            for i, o, blocks in zip(inputs, _CHANNELS, _BLOCKS, strict=True)
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, _WIDTH, 1) for channels in _CHANNELS[1:]
        )
        self.context = nn.Linear(_CHANNELS[-1], _WIDTH)
        self.smooth = nn.ModuleList(
            _convolution(_WIDTH, _WIDTH) for _ in _CHANNELS[1:]
        )
        self.head = nn.Sequential(_Block(_WIDTH), nn.Conv2d(_WIDTH, DIM, 1))

    def forward(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B D h w"]:
        """Dense embeddings, not yet of unit length, of images in 0-1."""
        x = (images - 0.45) / 0.25
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        merged = (
            self.lateral[2](maps[3])
            + self.context(maps[3].mean((2, 3)))[:, :, None, None]
        )
        merged = torch.relu(self.smooth[2](merged))
        for level in (1, 0):
            finer = self.lateral[level](maps[level + 1])
            merged = finer + interpolate(
                merged, size=finer.shape[2:], mode="bilinear"
            )
            merged = torch.relu(self.smooth[level](merged))
        return self.head(merged)


class SmallModel(VisionLanguageModel):
    """The trained towers of a weights file, frozen. Make it with
    ``create_model("small-attributes")``.

    ``weights``: a safetensors file with tensors ``visual.*`` and ``text.*``,
    and a manifest that holds the ``vocabulary``; its name is the model's.
    StoreError where it is missing or is another model's.
    """

    dim = DIM
    stride = _STRIDE

    def __init__(
        self,
        weights: Path = WEIGHTS / "small-attributes.safetensors",
        device: str | torch.device = "cpu",
    ) -> None:
        self._weights, self.name = weights, weights.stem
        self._device = torch.device(device)
        if not weights.is_file():
            kind = SMALL_MODELS.get(self.name, "KIND")
            raise StoreError(
                f"{weights}: no such file; train it: python"
                f" data_scripts/train_small_vlm.py {kind} --out {weights}"
            )
        tensors, self.manifest = load_tensors(weights)
        self.fingerprint = hash_files(weights)
        self.vocabulary: tuple[str, ...] = tuple(
            self.manifest.get("vocabulary", ())
        )
        if not self.vocabulary:
            raise StoreError(
                f"{weights}: not the weights of a small model (no vocabulary);"
                " fetch or train them again"
            )
        self._tensors = {
            name: tensor.float() for name, tensor in tensors.items()
        }
        self._visual = self._load(VisualTower(), "visual.").to(
            memory_format=torch.channels_last
        )

    def _load(self, tower: nn.Module, prefix: str) -> nn.Module:
        own = {
            name.removeprefix(prefix): value
            for name, value in self._tensors.items()
            if name.startswith(prefix)
        }
        try:
            tower.load_state_dict(own)
        except RuntimeError as error:
            raise StoreError(
                f"{self._weights}: not the weights of a small model; fetch or"
                " train them again"
            ) from error
        return tower.to(self._device).eval().requires_grad_(False)

    @cached_property
    def _text(self) -> nn.Module:
        return self._load(TextTower(len(self.vocabulary), DIM), "text.")

    @torch.no_grad()
    def dense_embeddings(
        self, image: UInt8[Tensor, "H W 3"]
    ) -> Float[Tensor, "h w D"]:
        """Unit embeddings (ceil(H / 4), ceil(W / 4), 64), float32: one pass
        over the whole frame.
        """
        check_image(image, _SMALLEST)
        pixels = image.to(self._device).permute(2, 0, 1)[None].float() / 255
        dense = self._visual(
            pixels.contiguous(memory_format=torch.channels_last)
        )
        return normalize(dense[0].permute(1, 2, 0).contiguous(), dim=-1)

    @torch.no_grad()
    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "K D"]:
        """Unit embeddings (K, 64), float32, one row a text.

        ValueError naming an unknown word; for an empty list, an empty text and
        a text that stands there twice.
        """
        check_texts(texts)
        return normalize(
            self._text(tokenize(texts, self.vocabulary).to(self._device)),
            dim=-1,
        )
