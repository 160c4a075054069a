"""What every 2D vision-language model of the book is: images and texts in, unit
vectors of one space out, frozen.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vlg_lib.artifacts import key_of


class VisionLanguageModel(ABC):
    """A frozen 2D model (F^2D and F^C of the paper, Sec. 3.1).

    It is no ``nn.Module`` on purpose: it has no parameters that an optimizer
    could find. ``name`` is what ``create_model`` takes, ``dim`` is D,
    ``stride`` is the pixels a cell of the dense grid spans. ``fingerprint`` is
    short and differs where dense embeddings may: other weights, another
    read-out, other sizes.

    >>> from vlg_lib.vision_language import create_model
    >>> model = create_model("small-attributes")
    >>> words = model.text_embeddings(["a chair", "the floor"])
    >>> model.segment(torch.zeros(60, 80, 3).byte(), words).shape
    torch.Size([60, 80])
    """

    name: str
    dim: int
    stride: int
    fingerprint: str

    @abstractmethod
    def dense_embeddings(
        self, image: UInt8[Tensor, "H W 3"]
    ) -> Float[Tensor, "h w D"]:
        """Unit embeddings (float32) of an RGB image, on a grid of cells that
        covers the whole image evenly.

        Pixel u (centres at integers) lies at grid coordinate (u + 0.5) w / W -
        0.5. ValueError for another dtype or shape.
        """

    @abstractmethod
    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "K D"]:
        """Unit embeddings (float32) of K texts, one row each. ValueError for an
        empty list.
        """

    def segment(
        self,
        image: UInt8[Tensor, "H W 3"],
        text_embeddings: Float[Tensor, "K D"],
    ) -> Int[Tensor, "H W"]:
        """The best text of every pixel: cosine similarities on the grid,
        upsampled bilinearly, argmax over texts.
        """
        similarity = self.dense_embeddings(image) @ text_embeddings.T
        size = (image.shape[0], image.shape[1])
        return interpolate(
            similarity.permute(2, 0, 1)[None], size=size, mode="bilinear"
        )[0].argmax(0)


def hash_folder(folder: Path) -> str:
    """A short hash of the names, sizes and times of the files in a folder:
    large ones need not be read.
    """
    files = [
        (path, path.stat())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return key_of(
        files=[
            (str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files
        ]
    )


def hash_weights(*modules: nn.Module | None) -> str:
    """A short hash of the weights and buffers of modules; None has none."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in (
            module.state_dict().items() if module is not None else ()
        ):
            digest.update(
                name.encode()
                + tensor.cpu()
                .contiguous()
                .flatten()
                .view(torch.uint8)
                .numpy()
                .tobytes()
            )
    return digest.hexdigest()[:12]


def check_image(image: Shaped[Tensor, "..."], smallest: int) -> None:
    """ValueError unless ``image`` is an (H, W, 3) uint8 tensor with both sides
    at least ``smallest`` pixels.
    """
    if image.dtype != torch.uint8:
        raise ValueError(
            f"expected an image of dtype uint8 (0-255), found {image.dtype};"
            " multiply by 255 and convert"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "expected an image of shape (height, width, 3), found"
            f" {tuple(image.shape)}"
        )
    if min(image.shape[:2]) < smallest:
        raise ValueError(
            f"expected an image of at least {smallest} x {smallest} pixels,"
            f" found {tuple(image.shape[:2])}"
        )


def check_texts(texts: Sequence[str]) -> None:
    """ValueError unless ``texts`` is a list of at least one text, none of them
    empty and none there twice.
    """
    if (
        isinstance(texts, str)
        or len(texts) == 0
        or not all(text.strip() for text in texts)
    ):
        raise ValueError(
            "expected a list of at least one text, none of them empty, found"
            f" {texts!r}"
        )
    if len(set(texts)) < len(texts):
        twice = sorted({text for text in texts if list(texts).count(text) > 1})
        raise ValueError(
            "expected every text once (two classes of one text cannot be told"
            f" apart), found twice: {twice}"
        )
