"""Faults on purpose: a full disk, a damaged scene among good ones, a frame that
vanishes, a damaged file in the cache.

    export PYTHONPATH=tests
    python tests/robustness/fault_damage.py disk --sizes 4
    python tests/robustness/fault_damage.py scenes

``make robustness`` runs both; ``disk`` mounts a tmpfs, so it needs root.

Each line is one JSON object. ``disk``: the smallest run over twelve rooms
(fault_run.py) with all that it writes on a tmpfs of a random size, then the
disk is made larger and the run started again. ``scenes``: the run over a folder
of twelve scenes of which one is damaged, then the scene is fixed and the run
started again. Told are the exit status, what the first run said (its folder
left out), how many scenes were fused all the same, whether anything under a
final name is not what an undisturbed run has, and whether the second start ends
with all of it. (Of the cache of the undisturbed run, the 3D networks are kept
for ``scenes``, to save time.)

What is not as it must be ends in a line on standard error and exit status 1.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from fault_run import (
    PROFILE,
    cli,
    digests,
    empty,
    execute,
    left_over,
    run_command,
    stage_of,
    unlike,
)

from vlg_lib.data.frames import FrameFolder
from vlg_lib.rooms.scenes import make_rooms

Damage = Callable[[Path], None]
"""Does harm to a scene folder."""


def cut(name: str, share: float = 0.6) -> Damage:
    """The file of a scene is cut short."""

    def damage(scene: Path) -> None:
        path = scene / name
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def no_pose(scene: Path) -> None:
    """All poses of a scene are lost."""
    for path in (scene / "pose").iterdir():
        path.write_text("-inf -inf -inf -inf\n" * 4)


def one_pose(scene: Path) -> None:
    """One pose of a scene is lost."""
    path = next((scene / "pose").iterdir())
    path.write_text("-inf -inf -inf -inf\n" * 4)


DAMAGES: dict[str, tuple[Damage, bool]] = {
    "points.ply is cut": (cut("points.ply"), True),
    "scene.json is cut": (cut("scene.json"), True),
    "labels.ply is cut": (cut("labels.ply"), True),
    "intrinsics are cut": (cut("intrinsic/intrinsic_color.txt"), True),
    "all poses are lost": (no_pose, True),
    "one colour image is cut": (
        lambda scene: cut(f"color/{next((scene / 'color').iterdir()).name}")(
            scene
        ),
        False,
    ),
    "one pose is lost": (one_pose, False),
}
"""What happens to a scene, and whether it cannot be used then; else the frame
is left out, and counted in run.json."""


def vanishing(frame: str) -> Callable[[], object]:
    """The command line, in a process in which a file is removed after it was
    listed and before it is read.
    """

    def main() -> object:
        read = FrameFolder.__getitem__

        def removing(frames: FrameFolder, index: int) -> object:
            if frames.folder.name == BAD:
                (frames.folder / frame).unlink(missing_ok=True)
            return read(frames, index)

        FrameFolder.__getitem__ = removing  # type: ignore[method-assign, assignment]
        return cli.main()

    return main


BAD = "room-00004"
"""The scene that is damaged: the fifth of nine to learn from."""


def write_scenes(folder: Path) -> Path:
    """Twelve scenes in folders ``train`` and ``test``."""
    size = {
        "views": PROFILE.rooms.views,
        "width": PROFILE.rooms.width,
        "height": PROFILE.rooms.height,
    }
    make_rooms(folder / "train", range(9), **size, progress=False)
    make_rooms(folder / "test", range(9, 12), **size, progress=False)
    return folder


def scene_faults(folder: Path) -> Iterator[dict[str, object]]:
    """One line for each damage."""
    scenes, cache = write_scenes(folder / "scenes"), folder / "cache"
    command = run_command(
        empty(cache), "--source", "layout", "--scenes", str(scenes)
    )
    whole_run = execute(command)
    assert whole_run.status == 0, whole_run.errors
    whole = digests(cache)
    # What the kept networks do not ask for again; and the table's own file, of
    # which a frame left out gives a second.
    whole = {
        name: what
        for name, what in whole.items()
        if not name.startswith(("pseudo_labels/", "table/"))
    }
    bad, kept = scenes / "train" / BAD, folder / "kept"
    shutil.copytree(bad, kept)
    cases: list[tuple[str, Damage, Callable[[], object], bool]] = [
        (name, damage, cli.main, fatal)
        for name, (damage, fatal) in DAMAGES.items()
    ]
    for part in ("color", "depth"):
        file = f"{part}/{next((bad / part).iterdir()).name}"
        cases.append(
            (
                f"a {part} image vanishes",
                lambda scene: None,
                vanishing(file),
                True,
            )
        )
    for name, damage, main, fatal in cases:
        for stage in ("fused", "pseudo_labels", "adapter", "table", "out"):
            shutil.rmtree(cache / stage)
        damage(bad)
        first = execute(replace(command, main=main))
        found = digests(cache)
        shutil.rmtree(bad)
        shutil.copytree(kept, bad)
        again = execute(command)
        yield {
            "name": name,
            "status": [first.status, again.status],
            "said": said(first.errors, folder),
            "fused": sum(
                file.startswith("fused/") and file.endswith(".safetensors")
                for file in found
            ),
            "table": "out/table.json" in found,
            "partial": (
                []
                if not fatal
                else [file for file in unlike(found, whole) if file in whole]
            ),
            "equal": whole.items() <= digests(cache).items(),
            "as_it_must_be": (
                first.status != 0 and any(BAD in line for line in first.errors)
                if fatal
                else first.status == 0
            ),
        }


def said(errors: list[str], folder: Path) -> list[str]:
    """What was said, without the folder of this run."""
    return [line.replace(f"{folder.resolve()}/", "") for line in errors]


def main() -> None:
    """Do harm, start again, compare; exit status 1 where something is not as it
    must be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=["disk", "scenes"])
    parser.add_argument("--sizes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        lines = (
            scene_faults(folder)
            if given.kind == "scenes"
            else full_disks(folder, given.sizes, given.seed)
        )
        for line in lines:
            print(json.dumps(line), flush=True)
            faults += not (
                line["as_it_must_be"] and line["equal"] and not line["partial"]
            )
    if faults:
        sys.exit(f"{faults} lines tell of faults")


def full_disks(
    folder: Path, count: int, seed: int
) -> Iterator[dict[str, object]]:
    """One line for each size of the disk, spread over the orders of magnitude
    below what the run needs.
    """
    rng, disk = random.Random(seed), folder / "disk"
    assert execute(run_command(empty(disk))).status == 0
    whole, need = (
        digests(disk),
        sum(path.stat().st_size for path in disk.rglob("*") if path.is_file()),
    )
    for part in range(count):
        kilobytes = int((need / 1000) ** ((part + rng.random()) / count))
        mount(empty(disk), f"size={max(kilobytes, 64)}k", "tmpfs")
        try:
            first = execute(run_command(disk))
            found, left, stage = digests(disk), left_over(disk), stage_of(disk)
            mount(disk, f"remount,size={3 * need}")
            again = execute(run_command(disk))
            equal = digests(disk) == whole
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        told = said(first.errors, folder)
        yield {
            "name": "disk full",
            "disk_kB": kilobytes,
            "of_kB": need // 1000,
            "status": [first.status, again.status],
            "said": told,
            "last_written": stage,
            "files": len(found),
            "temporary": left,
            "partial": unlike(found, whole),
            "equal": equal,
            "seed": seed,
            "as_it_must_be": (
                first.status > 0
                and len(told) == 1
                and "disk/" in told[0]
                and "room" in told[0]
            ),
        }


def mount(folder: Path, options: str, *kind: str) -> None:
    """Mount a file system of a kind on a folder, or change what is mounted
    there.
    """
    subprocess.run(
        [
            "mount",
            *(("-t", *kind, *kind) if kind else ()),
            "-o",
            options,
            str(folder),
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
