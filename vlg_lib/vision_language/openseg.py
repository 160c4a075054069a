"""OpenSeg, the 2D model of the paper: a TensorFlow SavedModel for images,
CLIP's ViT-L/14@336 for texts.

Ghiasi et al., "Scaling Open-Vocabulary Image Segmentation with Image-Level
Labels", ECCV 2022. It learnt from class-agnostic masks and captions. The
published model (folder ``exported_model`` of its authors' demo) wants about 30
GB on a GPU; OpenScene's fused features, made with it, need no TensorFlow
(:mod:`vlg_lib.data.embedding_files`).
"""

import io
import os
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.vision_language.base import (
    VisionLanguageModel,
    check_image,
    hash_folder,
)

DIM = 768
TEXT_TOWER = "open_clip/ViT-L-14-336-quickgelu/openai/maskclip"
SIGNATURE = {
    "inp_image_bytes": ("string", ()),
    "inp_text_emb": ("float32", (None, None, DIM)),
    "ppixel_ave_feat": ("float32", (None, None, None, DIM)),
    "image_info": ("float32", (4, 2)),
}
"""Types and shapes of what the model's serving signature takes and returns;
None is any length.

``ppixel_ave_feat``: each pixel the mean over its region, on a square grid of
640 that the resized image fills from the upper left corner on. ``image_info``:
rows of (y, x): the image's size, the grid's, the scale between them, an offset.
"""


class OpenSegModel(VisionLanguageModel):
    """OpenSeg from the folder of its SavedModel; None takes the one that the
    variable VLG_OPENSEG names.

    TensorFlow and CLIP's text tower are loaded when they are first needed, so
    texts need no TensorFlow. ``text_model``: one that embeds texts in OpenSeg's
    space, None for TEXT_TOWER. Answers are moved to ``device``; TensorFlow
    itself takes a GPU where it finds one. A map takes 3 kB a cell, 0.94 GB for
    4 : 3 images.
    """

    name, dim, stride = "openseg", DIM, 1

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        device: str | torch.device = "cpu",
        text_model: VisionLanguageModel | None = None,
    ) -> None:
        self._folder = folder or os.environ.get("VLG_OPENSEG")
        self._device = device
        self._given = text_model

    def dense_embeddings(
        self, image: UInt8[Tensor, "H W 3"]
    ) -> Float[Tensor, "h w D"]:
        """Unit embeddings of an image scaled so that its longer side fills 640
        cells; zero where OpenSeg has none.

        ValueError where there is no SavedModel, no TensorFlow, or a model of
        another signature.
        """
        check_image(image, 1)
        file = io.BytesIO()
        Image.fromarray(image.cpu().numpy()).save(file, "PNG", compress_level=1)
        return self.embed_file(file.getvalue())

    def embed_file(self, content: bytes) -> Float[Tensor, "h w D"]:
        """The same from the bytes of an image file (PNG or JPEG)."""
        found = self._signature(
            inp_image_bytes=content,
            inp_text_emb=np.zeros((1, 1, DIM), np.float32),
        )
        grid, info = (
            np.asarray(found[name])
            for name in ("ppixel_ave_feat", "image_info")
        )
        # a hair below a whole number must not cost a row
        height, width = np.rint(info[0] * info[2]).astype(int)
        if not (0 < height <= grid.shape[1] and 0 < width <= grid.shape[2]):
            raise ValueError(
                f"openseg: image_info says {height} x {width} cells of a grid"
                f" of {grid.shape[1:3]}"
            )
        return normalize(
            torch.from_numpy(grid[0, :height, :width].copy()).to(self._device),
            dim=-1,
        )

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # the folder is looked at where somebody asks
        """Of the files of the SavedModel: their names, sizes and times."""
        return "" if self._folder is None else hash_folder(Path(self._folder))

    @cached_property
    def _signature(self) -> Any:
        if (
            self._folder is None
            or not (Path(self._folder) / "saved_model.pb").is_file()
        ):
            raise ValueError(
                "openseg: expected the folder of a SavedModel"
                f" (saved_model.pb), found {self._folder}; fetch"
                " gs://cloud-tpu-checkpoints/detection/projects/openseg/colab/exported_model"
                " and let the variable VLG_OPENSEG name it, or start from"
                " fused features (vlg_lib.data.embedding_files)"
            )
        if find_spec("tensorflow") is None:
            raise ValueError(
                "openseg: needs TensorFlow: pip install 'vlg-lib[openseg]'"
            )
        import tensorflow  # An optional extra, and slow to import.

        for gpu in tensorflow.config.list_physical_devices("GPU"):
            # leave room for torch
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        # its variables live as long as it does
        self._model = tensorflow.saved_model.load(str(self._folder))
        return checked_signature(self._model.signatures.get("serving_default"))

    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "K D"]:
        """Unit embeddings (K, 768) of texts by CLIP's ViT-L/14@336."""
        if self._given is None:
            # It knows this module.
            from vlg_lib.vision_language import create_model

            self._given = create_model(TEXT_TOWER, device=self._device)
        return self._given.text_embeddings(texts)


def checked_signature(signature: Any) -> Any:
    """The serving signature of a SavedModel; ValueError where it does not take
    and return what SIGNATURE says.
    """
    specs = (
        {}
        if signature is None
        else signature.structured_input_signature[1]
        | signature.structured_outputs
    )
    for name, (dtype, shape) in SIGNATURE.items():
        found = specs.get(name)
        if (
            found is None
            or found.dtype.name != dtype
            or not found.shape.is_compatible_with(shape)
        ):
            raise ValueError(
                f"openseg: expected {name!r} {dtype} {shape} in the signature"
                f" 'serving_default', found {found or sorted(specs)}: is this"
                " the SavedModel of OpenSeg?"
            )
    return signature
