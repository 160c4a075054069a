"""Write procedural rooms as scene folders: ``python data_scripts/make_rooms.py
--out rooms --train 8 --test 4``.

Folders ``train/`` and ``test/`` under the output hold one scene each room, in
the layout that every reader of this library opens. Rooms that are there already
are kept, so a stopped run goes on where it was.
"""

import argparse
from pathlib import Path

import torch

from vlg_lib.data.layout import read_point_labels, read_scene
from vlg_lib.rooms.scenes import make_rooms, split_seeds


def main() -> None:
    """Make the rooms of both splits and print what they hold."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the folder that receives train/ and test/",
    )
    parser.add_argument("--train", type=int, default=8, help="training rooms")
    parser.add_argument("--test", type=int, default=4, help="test rooms")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other rooms"
    )
    parser.add_argument(
        "--shift",
        type=float,
        default=0.5,
        help="share of objects with colours of the second palette",
    )
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--height", type=int, default=120)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {
        "shift": given.shift,
        "views": given.views,
        "width": given.width,
        "height": given.height,
    }
    for split, count in (("train", given.train), ("test", given.test)):
        for folder in make_rooms(
            given.out / split, split_seeds(split, count, given.seed), **sizes
        ):
            scene = read_scene(folder)
            labelled = float((read_point_labels(folder) >= 0).float().mean())
            tags = ", ".join(scene.class_set.present(scene.scene_labels))
            print(
                f"{folder}: {len(scene.points)} points, {100 * labelled:.0f} %"
                f" with a class; {tags}"
            )


if __name__ == "__main__":
    main()
