"""The command line, ``vlg``: one thin function a command; each ``--help`` shows
examples.

``convert``, ``own_scan``, ``runs`` and ``library`` have the commands,
``options`` what several of them share, ``base`` how a function becomes a
command.
"""

import io
import sys

from vlg_lib.cli import convert, library, own_scan, runs
from vlg_lib.cli.base import add_command, new_app

__all__ = ["app", "convert", "library", "main", "own_scan", "runs"]

app = new_app(
    "vlg",
    "Label every point of a 3D scan with words: from posed images, a 2D"
    " vision-language model and scene tags.",
)
app.add_typer(
    convert.app, short_help="Bring in scans and data sets of other forms."
)
for function, summary in (
    (own_scan.check, "Find what is wrong with a scan."),
    (own_scan.describe, "What a scene holds."),
    (own_scan.fuse, "Fuse the image colours onto the points."),
    (own_scan.label, "Label a scan among its tags; train a network on it."),
    (own_scan.predict, "Label a point cloud with a trained network."),
    (runs.run, "Run the whole method and print one table."),
    (runs.predict_scenes, "Label many scenes with the network of a run."),
    (runs.export_scannet, "Pack predictions for ScanNet's benchmark."),
    (runs.plan, "Reckon disk, memory and time of a data set."),
    (library.models, "The 2D models and 3D networks that there are."),
    (library.info, "Versions, device, cache, sizes of the profiles."),
):
    add_command(app, function, summary=summary)
add_command(app, runs.experiment, hidden=True)


def main() -> None:
    """Run the command line; an error of the input is one line on standard error
    and exit code 2.

    Names that a terminal has no letters for are printed by their numbers.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
