"""Dense embeddings kept in files: an image passes the 2D model once."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.artifacts import StoreError, key_of, load_tensors, save_tensors
from vlg_lib.vision_language.base import VisionLanguageModel


class CachedModel(VisionLanguageModel):
    """A model whose dense embeddings are kept in ``folder``, a file an image,
    in half precision.

    What is kept is known by the model's ``fingerprint`` (its weights, read-out
    and sizes) and the image's bytes and size. A frame takes 2 h w D bytes. A
    scene of 20 frames at 160 x 120 takes 3 MB of ``small-attributes``; one of
    300 frames 0.09 GB of a ViT-B/16 at 320 x 240 (15 x 20 patches, 512 numbers)
    and 142 GB of OpenSeg (480 x 640 cells, 768 numbers). At most
    ``limit_bytes`` are kept: the frames that were not used for the longest time
    make room.

    Use it where images are embedded again and again, as for several point
    clouds or settings of visibility. Without it nothing of a frame is stored:
    fusing a scene needs each once.
    """

    def __init__(
        self, model: VisionLanguageModel, folder: Path, limit_bytes: int
    ) -> None:
        self.name, self.dim, self.stride = model.name, model.dim, model.stride
        self._model, self._folder, self._limit = model, folder, limit_bytes
        self._key = key_of(model=model.fingerprint)
        self.fingerprint = f"{model.fingerprint}-half"

    def dense_embeddings(
        self, image: UInt8[Tensor, "H W 3"]
    ) -> Float[Tensor, "h w D"]:
        """The model's, rounded to half precision, at unit length; the first
        time as every other time.

        On the device of the model the first time, else on the CPU. StoreError
        for a file that is damaged, and where ``limit_bytes`` is less than one
        frame.
        """
        content = hashlib.sha256(
            repr(tuple(image.shape)).encode()
            + image.cpu().contiguous().numpy().tobytes()
        )
        path = (
            self._folder / f"{self._key}-{content.hexdigest()[:32]}.safetensors"
        )
        with suppress(FileNotFoundError):
            os.utime(path)  # the time of a file is that of its last use
            return normalize(load_tensors(path)[0]["dense"].float(), dim=-1)
        dense = self._model.dense_embeddings(image).half()
        self._make_room(2 * dense.numel() + 4096)
        save_tensors(path, {"dense": dense}, {"model": self.name})
        return normalize(dense.float(), dim=-1)

    def _make_room(self, size: int) -> None:
        if size > self._limit:
            raise StoreError(
                f"{self._folder}: a frame of {self.name!r} takes {size} bytes,"
                f" the limit is {self._limit}"
            )
        kept = []
        for path in self._folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process made room, too
                kept.append(
                    (path.stat().st_mtime_ns, path.stat().st_size, path)
                )
        total = size + sum(length for _, length, _ in kept)
        for _, length, path in sorted(kept):
            if total > self._limit:
                path.unlink(missing_ok=True)
                total -= length

    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "K D"]:
        """The model's."""
        return self._model.text_embeddings(texts)
