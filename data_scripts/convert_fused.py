"""Convert the fused features that OpenScene published into files that stages 2 and 3 start from, without TensorFlow.

    python data_scripts/convert_fused.py scannet_multiview_openseg scenes/scannet fused/scannet --dim 768

FEATURES holds, for each scene, NAME.pt with all points that a view saw, or NAME_0.pt, NAME_1.pt, ... with random ones
of them (20,000 each, five files a training scene of ScanNet). Each is a dictionary of two tensors: ``mask_full`` (N,)
bool, True for the points of the scene that the file has, and ``feat``, half precision, a row for each of these in their
order (Peng et al., "OpenScene", CVPR 2023; its issues 3 and 61). Older files with a third entry ``mask`` are refused.

SCENES holds the scenes in the layout of the library; their points must be those that the features were made for, in the
same order (for ScanNet: the vertices of ``*_vh_clean_2.ply``). OUT receives NAME.safetensors, see
``vlg_lib.fused_features``. Published rows are plain means over views; they are scaled to unit length unless
``--plain``. They do not say how many views saw a point: the count is 1, or the number of files that hold the point.

Files are loaded as tensors and nothing else (``weights_only``): a .pt file of a stranger runs no code.
"""

import re
from pathlib import Path
from typing import Annotated

import torch
import typer
from converting import one_line_errors
from torch import Tensor
from torch.nn.functional import normalize as unit_length
from tqdm.auto import tqdm

from vlg_lib.data.layout import scene_folders
from vlg_lib.data.ply import read_points
from vlg_lib.fused_features import check, write_fused
from vlg_lib.scene import PointEmbeddings
from vlg_lib.store import StoreError, load_tensors


def read_published(
    folder: Path, name: str, points: int, dim: int | None = None, *, normalize: bool = True
) -> PointEmbeddings:
    """The published embeddings of the scene ``name``, which has ``points`` points; of ``dim`` numbers, None for any.

    StoreError naming the file where one is missing, cut, foreign, of another scene or another 2D model.
    """
    whole = folder / f"{name}.pt"
    numbered = re.compile(re.escape(name) + r"_(0|[1-9]\d*)\.pt")
    parts = sorted(path for path in folder.glob("*.pt") if numbered.fullmatch(path.name))
    found = [*([whole] if whole.is_file() else []), *parts]
    if not found or (whole in found and parts):
        raise StoreError(
            f"{folder}: expected the features of scene {name!r} as {whole.name} or as {name}_0.pt, {name}_1.pt ..., "
            f"found {[path.name for path in found]}"
        )
    counts, sums = torch.zeros(points, dtype=torch.int32), torch.empty(0)
    for path in found:
        rows, indices = _read(path, points, dim)
        if sums.ndim != 2:
            sums, dim = torch.zeros(points, rows.shape[1]), rows.shape[1]
        sums.index_add_(0, indices, unit_length(rows.float()) if normalize else rows.float())
        counts[indices] += rows.any(dim=1).int()
    return PointEmbeddings(unit_length(sums) if normalize else sums / counts.clamp(min=1)[:, None], counts)


def _read(path: Path, points: int, dim: int | None) -> tuple[Tensor, Tensor]:
    """The rows of one file, and the points that they belong to."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for bytes that are no tensors
        raise StoreError(f"{path}: not a whole .pt file of torch tensors ({error}); fetch it again") from error
    content = content if isinstance(content, dict) else {}
    for name in ("mask_full", "feat"):
        if not isinstance(content.get(name), Tensor):
            raise StoreError(f"{path}: expected a tensor {name!r}, found {sorted(map(str, content))}: another file?")
    if "mask" in content:
        raise StoreError(f"{path}: has 'mask' beside 'mask_full', an older form; fetch the newer one of these features")
    mask, rows = content["mask_full"], content["feat"]
    check(path, mask, (points,), (torch.bool,))
    check(path, rows, (int(mask.sum()), dim), (torch.float16, torch.float32))
    return rows, mask.nonzero()[:, 0]


def convert(features: Path, scene: Path, out: Path, dim: int | None = None, *, normalize: bool = True) -> bool:
    """Write ``out/NAME.safetensors`` for the scene folder ``scene``; False where it was there already, made alike."""
    path = out / f"{scene.name}.safetensors"
    manifest = {"converter": "data_scripts/convert_fused.py", "source": features.resolve().name, "normalize": normalize}
    if path.is_file() and load_tensors(path)[1] == manifest:
        return False
    points = len(read_points(scene / "points.ply")[0])
    fused = read_published(features, scene.name, points, dim, normalize=normalize)
    write_fused(path, [fused.embeddings], fused.view_counts, fused.embeddings.shape[1], manifest)
    return True


def main(
    features: Annotated[Path, typer.Argument(help="Folder of NAME.pt, or NAME_0.pt, NAME_1.pt ... .")],
    scenes: Annotated[Path, typer.Argument(help="Folder of the scenes in the library's layout.")],
    out: Annotated[Path, typer.Argument(help="Folder that receives NAME.safetensors.")],
    dim: Annotated[int | None, typer.Option(help="Dimensions that the embeddings must have.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Keep rows as long as they are.")] = False,
) -> None:
    """Convert OpenScene's fused features of all scenes in a folder; those that are there are kept."""
    with one_line_errors():
        folders = scene_folders(scenes)
    failed, written = {}, 0
    for folder in tqdm(folders, "features", unit="scene", disable=None):
        try:
            written += convert(features, folder, out, dim, normalize=not plain)
        except (ValueError, OSError) as error:
            failed[folder.name] = str(error)
    typer.echo(f"{out}: {written} scenes converted, {len(folders) - written - len(failed)} kept, {len(failed)} failed")
    for name, reason in failed.items():
        typer.echo(f"failed: {name}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
