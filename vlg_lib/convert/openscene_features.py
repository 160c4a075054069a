r"""Fused features as OpenScene published them become files of this library;
stages 2 and 3 start from them, without images and without TensorFlow.

::

    vlg convert openscene-features scannet_multiview_openseg \
        --scenes scenes/scannet --out fused/scannet --dim 768

The folder of features holds, for each scene, NAME.pt with all points that a
view saw, or NAME_0.pt, NAME_1.pt, ... with random ones of them (20,000 each,
five files a training scene of ScanNet). Each is a dictionary of two tensors:
``mask_full`` (N,) bool, True for the points of the scene that the file has, and
``feat``, half precision, a row for each of these in their order (Peng et al.,
"OpenScene", CVPR 2023; its issues 3 and 61). Its script for nuScenes leaves
``mask_full`` a NumPy array, which is taken, too. Older files with a third entry
``mask`` are refused.

The scenes are folders in the layout of the library; their points must be those
that the features were made for, in the same order (for ScanNet: the vertices of
``*_vh_clean_2.ply``). For each a file NAME.safetensors is written, see
``vlg_lib.data.embedding_files``. Published rows are plain means over views;
they are scaled to unit length where ``normalize`` says so. They do not say how
many views saw a point: the count is 1, or the number of files that hold the
point.

Files are loaded as tensors and nothing else (``weights_only``): a .pt file of a
stranger runs no code.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize as unit_length
from tqdm.auto import tqdm

from vlg_lib.artifacts import StoreError, load_tensors
from vlg_lib.convert.batch import Summary
from vlg_lib.data.embedding_files import check, write_fused
from vlg_lib.data.layout import scene_folders
from vlg_lib.data.ply import read_points
from vlg_lib.scene import PointEmbeddings

CONVERTER = "vlg convert openscene-features"

ARRAYS = (
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)
"""What a file names that holds an array of NumPy: before 2.0, and since."""


@dataclass(frozen=True)
class FeatureSettings:
    """What the files must hold, and how their rows are stored."""

    dim: int | None = None
    """Dimensions that the embeddings must have; None for any."""
    normalize: bool = True
    """Whether rows are scaled to unit length."""


class _Numpy:
    """Stands for each of ARRAYS while a file is loaded, and keeps what the file
    says: no array is built from it.

    NumPy would take a stranger's word for memory: numbers never written, a
    dtype changed under an array that has it.
    """

    said: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *said: Any) -> None:
        self.said = said

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_published(
    folder: Path,
    name: str,
    points: int,
    dim: int | None = None,
    *,
    normalize: bool = True,
) -> PointEmbeddings:
    """The published embeddings of the scene ``name``, which has ``points``
    points; of ``dim`` numbers, None for any.

    ``folder``: of the published files. ``normalize``: whether rows are scaled
    to unit length. StoreError naming the file where one is missing, cut,
    foreign, of another scene or another 2D model.
    """
    counts, sums = torch.zeros(points, dtype=torch.int32), torch.empty(0)
    for path in _files(folder, name):
        rows, indices = _read(path, points, dim)
        if sums.ndim != 2:
            sums, dim = torch.zeros(points, rows.shape[1]), rows.shape[1]
        values = unit_length(rows.float()) if normalize else rows.float()
        sums.index_add_(0, indices, values)
        counts[indices] += rows.any(dim=1).int()
    if normalize:
        return PointEmbeddings(unit_length(sums), counts)
    return PointEmbeddings(sums / counts.clamp(min=1)[:, None], counts)


def _files(folder: Path, name: str) -> list[Path]:
    """The one file of a scene, or its numbered parts."""
    whole = folder / f"{name}.pt"
    numbered = re.compile(re.escape(name) + r"_(0|[1-9]\d*)\.pt")
    parts = sorted(
        path for path in folder.glob("*.pt") if numbered.fullmatch(path.name)
    )
    found = [*([whole] if whole.is_file() else []), *parts]
    if not found or (whole in found and parts):
        raise StoreError(
            f"{folder}: expected the features of scene {name!r} as {whole.name}"
            f" or as {name}_0.pt, {name}_1.pt ..., found"
            f" {[path.name for path in found]}"
        )
    return found


def _read(
    path: Path, points: int, dim: int | None
) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
    """The rows of one file, and the points that they belong to."""
    content = _load(path)
    if isinstance(content.get("mask_full"), _Numpy):
        content["mask_full"] = _mask(path, content["mask_full"])
    for name in ("mask_full", "feat"):
        if not isinstance(content.get(name), Tensor):
            entries = sorted(
                f"{key}: {type(value).__name__.lstrip('_')}"
                for key, value in content.items()
            )
            raise StoreError(
                f"{path}: expected a tensor {name!r}, found {entries}: another"
                " file?"
            )
    if "mask" in content:
        raise StoreError(
            f"{path}: has 'mask' beside 'mask_full', an older form; fetch the"
            " newer one of these features"
        )
    mask, rows = content["mask_full"], content["feat"]
    check(path, mask, (points,), (torch.bool,))
    check(path, rows, (int(mask.sum()), dim), (torch.float16, torch.float32))
    return rows, mask.nonzero()[:, 0]


def _load(path: Path) -> dict[Any, Any]:
    """What a file holds, as tensors and nothing else; {} where it is another
    thing than a dictionary.
    """
    try:
        with torch.serialization.safe_globals(
            [(_Numpy, name) for name in ARRAYS]
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # whatever torch raises for bytes that are no tensors
    except Exception as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise StoreError(
                f"{path}: expected tensors, or an array of NumPy, and no more,"
                f" found {refused[1]!r}, which could run code and is not"
                " loaded: another file?"
            ) from error
        raise StoreError(
            f"{path}: not a whole .pt file of torch tensors ({error}); fetch it"
            " again"
        ) from error
    return content if isinstance(content, dict) else {}


def _mask(path: Path, array: _Numpy) -> Bool[Tensor, " N"]:
    """The array of a file as a tensor, where it is one of bool: a byte for each
    point.
    """
    match array.state:
        case (
            _,
            (int(size),),
            _Numpy(said=("b1", *_)),
            _,
            bytes(content),
        ) if len(content) == size:
            return torch.from_numpy(np.frombuffer(content, np.uint8) != 0)
        case (_, shape, _Numpy(said=(kind, *_)), _, content):
            found = f"{kind!r} of {shape!r}" + (
                f" in {len(content)} bytes"
                if isinstance(content, bytes)
                else ""
            )
        case _:
            found = "no array that NumPy writes"
    raise StoreError(
        f"{path}: expected 'mask_full' as N bools, of NumPy 'b1' of (N,), found"
        f" {found}: another file?"
    )


def convert_features(
    features: Path,
    scenes: Path,
    out: Path,
    settings: FeatureSettings | None = None,
    *,
    progress: bool = True,
) -> Summary:
    """Convert the features of all scenes in a folder into
    ``out/NAME.safetensors``; those that are there, made alike, are kept.

    ``features``: folder of the published files. ``scenes``: folder of scenes in
    the library's layout. ``progress``: whether to show a bar. A scene that
    fails is named in the summary, and the others are converted all the same.
    LayoutError where there are no scenes.
    """
    settings = settings or FeatureSettings()
    summary = Summary(out)
    folders = scene_folders(scenes)
    bar = tqdm(
        folders,
        "features",
        unit="scene",
        disable=None if progress else True,
    )
    for scene in bar:
        try:
            written = convert_scene(features, scene, out, settings)
        except (ValueError, OSError) as error:
            summary.failed[scene.name] = str(error)
        else:
            names = summary.converted if written else summary.kept
            names.append(scene.name)
    return summary


def convert_scene(
    features: Path, scene: Path, out: Path, settings: FeatureSettings
) -> bool:
    """Write ``out/NAME.safetensors`` for the scene folder ``scene``; False
    where it was there already, made alike.
    """
    path = out / f"{scene.name}.safetensors"
    made = {
        "source": features.resolve().name,
        "normalize": settings.normalize,
    }
    if path.is_file() and _is_made_alike(path, made):
        return False
    points = len(read_points(scene / "points.ply")[0])
    fused = read_published(
        features,
        scene.name,
        points,
        settings.dim,
        normalize=settings.normalize,
    )
    write_fused(
        path,
        [fused.embeddings],
        fused.view_counts,
        fused.embeddings.shape[1],
        {"converter": CONVERTER, **made},
    )
    return True


def _is_made_alike(path: Path, made: dict[str, Any]) -> bool:
    """Whether a file was made so, by whatever the converter was called then."""
    about = dict(load_tensors(path)[1])
    about.pop("converter", None)
    return about == made
