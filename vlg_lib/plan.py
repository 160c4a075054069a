"""How much disk, memory and time a data set will take, before anything is
downloaded.

    python data_scripts/plan.py --source scannet --scenes 1201 --dim 768
    python data_scripts/plan.py --source own --scenes 3 --points 900000 --frames 400 --teacher openseg \
        --rate model=0.8 --max-memory 1000000000

Bytes follow from formulas, and are exact but for images, whose compressed size
was measured. Times follow from rates that were measured: they are read from the
records in ``results/``, named with the machine that they were measured on, and
printed with them. A rate that no record holds is not guessed: measure it
(``benchmarks/``), record it (``tools/record.py``), or give it (``--rate
NAME=VALUE``, in the unit that the plan prints). What a data set holds is an
average from its publication; ``--points``, ``--frames`` and the rest replace
it.

The formulas, with N points, F frames of W x H pixels, maps of h x w cells, D
dimensions:

* a scene in the layout: 3.1 W H F (2.1 bytes a pixel of colour and 1.0 of depth
  in the book's rooms, as PNG; 1.4 and 0.3 in the HoloLens sample) + 34 N
  (points and labels);
* fused embeddings: 2 N D + 4 N (half precision, and a count of views);
* a cache of dense embeddings, where one is wanted: 2 h w D F;
* memory of stage 1: 4 N D (or what ``--max-memory`` allows) + 4 h w D (twice
  for OpenSeg, whose answer is cut to the image) + 200 N (finding visible
  points) + 600 MB (the interpreter with torch);
* adapted embeddings, what stage 3 learns from: 2 N D;
* memory of stage 3, in each process: 31 N scenes (points, colours, labels,
  weights) + 600 MB; targets stay in files, of which a step reads the rows that
  it draws;
* time of stage 1: F (model + gather V D + visible N) a scene, with V = seen N
  the points that a frame sees;
* time of stage 2: adapter steps points D; it was measured on 64 dimensions, and
  grows faster than D where arithmetic and not memory is the limit;
* time of stage 3: network steps batch voxels, where voxels are those of a scene
  (at most N).
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vlg_lib.artifacts import read_json
from vlg_lib.pipeline.profiles import PROFILES, Profile

RESULTS = Path(__file__).resolve().parent.parent / "results"
BYTES_A_PIXEL, BYTES_A_POINT, BYTES_TO_SEE_A_POINT, BYTES_TO_BEGIN = (
    3.1,
    34,
    200,
    600e6,
)
BYTES_TO_LEARN_FROM_A_POINT = 31


@dataclass(frozen=True)
class Source:
    """What a data set holds, on average: points and frames a scene; the profile
    that trains on it; who says so.
    """

    profile: str
    points: int
    frames: int
    said_by: str


SOURCES = {
    "scannet": Source(
        "paper-scannet",
        150_000,
        83,
        "2.5 million views in 1,513 scans (Dai et al., CVPR 2017), every 20th;"
        " points: usual for *_vh_clean_2.ply",
    ),
    "s3dis": Source(
        "paper-s3dis",
        1_000_000,
        259,
        "70,496 images (Armeni et al., 2017) of 272 rooms; points: 273 million"
        " in the rooms' text files",
    ),
    "rooms": Source("book", 65_000, 20, "the book's own rooms"),
    "own": Source("book", 0, 0, "given"),
}


@dataclass(frozen=True)
class Job:
    """Everything that the formulas need: sizes of the data, and the settings of
    the profile.
    """

    scenes: int
    points: int
    frames: int
    width: int
    height: int
    dim: int
    teacher: str
    network: str
    adapter_points: int  # steps x points a step
    network_scenes: int  # steps x scenes a step
    voxels: int
    max_memory: int | None = None

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of the teacher's map: OpenSeg fills 640, ViTs have
        16 pixels a patch, the small model 4.
        """
        if self.teacher == "openseg":
            scale = 640 / max(self.height, self.width)
            return round(self.height * scale), round(self.width * scale)
        stride = 4 if self.teacher.startswith("small") else 16
        return -(-self.height // stride), -(-self.width // stride)


@dataclass(frozen=True)
class Rate:
    """A measured number: ``value`` in ``unit``; where it was measured, and on
    what; None where nobody has.
    """

    name: str
    unit: str
    value: float | None = None
    where: str = "not measured"


def disk(job: Job) -> dict[str, float]:
    """Bytes on disk of all scenes, by what they hold."""
    height, width = job.cells
    scene = (
        BYTES_A_PIXEL * job.width * job.height * job.frames
        + BYTES_A_POINT * job.points
    )
    return {
        "scenes in the layout": job.scenes * scene,
        "fused embeddings": (
            job.scenes * (2 * job.points * job.dim + 4 * job.points)
        ),
        "adapted embeddings": job.scenes * 2 * job.points * job.dim,
        "cache of dense embeddings, if wanted": (
            job.scenes * job.frames * 2 * height * width * job.dim
        ),
    }


def memory(job: Job) -> dict[str, float]:
    """Bytes of memory at the most, by stage."""
    height, width = job.cells
    sums = 4 * job.points * job.dim
    maps = (2 if job.teacher == "openseg" else 1) * 4 * height * width * job.dim
    sums = sums if job.max_memory is None else min(sums, job.max_memory)
    return {
        "stage 1, one process": (
            sums + maps + BYTES_TO_SEE_A_POINT * job.points + BYTES_TO_BEGIN
        ),
        "stage 3, one process": (
            job.scenes * BYTES_TO_LEARN_FROM_A_POINT * job.points
            + BYTES_TO_BEGIN
        ),
    }


STAGES: dict[str, tuple[str, ...]] = {
    "stage 1, the 2D model": ("model",),
    "stage 1, projection and averaging": ("gather", "seen", "visible"),
    "stage 2, the adapter": ("adapter",),
    "stage 3, the 3D network": ("network",),
}
"""What takes time, and the rates that it follows from."""


def seconds(job: Job, rates: dict[str, Rate]) -> dict[str, float | None]:
    """Seconds of work by stage, on the machines of the rates; None where a rate
    is missing.
    """
    frames = job.scenes * job.frames
    formulas: tuple[Callable[..., float], ...] = (
        lambda model: frames * model,
        lambda gather, seen, visible: (
            frames * job.points * (gather * seen * job.dim + visible)
        ),
        lambda adapter: job.adapter_points * job.dim * adapter,
        lambda network: job.network_scenes * job.voxels * network,
    )
    spent: dict[str, float | None] = {}
    for (stage, names), formula in zip(STAGES.items(), formulas, strict=True):
        values = [rates[name].value for name in names]
        spent[stage] = None if None in values else formula(*values)
    return spent


def measured(job: Job, results: Path = RESULTS) -> dict[str, Rate]:
    """The rates that the records hold, and empty ones for the others."""
    units = {
        "model": f"s a frame, {job.teacher}",
        "gather": "s a number",
        "seen": "of the points a frame",
        "visible": "s a point and frame",
        "adapter": "s a number",
        "network": f"s a voxel, {job.network}",
    }
    rates = {name: Rate(name, unit) for name, unit in units.items()}
    records = [
        (_machine(record), path.name, record)
        for path in results.glob("*.json")
        for record in [read_json(path)]
    ]
    # the last counts
    for machine, name, record in sorted(
        records, key=lambda each: ("cuda" in each[0], each[1])
    ):
        for rate, value in _rates_of(record, job).items():
            rates[rate] = replace(
                rates[rate], value=value, where=f"results/{name}, {machine}"
            )
    return rates


def _machine(record: dict[str, Any]) -> str:
    devices = {
        line["device"]
        for line in record.get("lines", [])
        if isinstance(line, dict) and "device" in line
    }
    return ", ".join(
        [record.get("hardware", "unknown machine"), *sorted(map(str, devices))]
    )


def _rates_of(record: dict[str, Any], job: Job) -> dict[str, float]:
    """The rates in one record: of the benchmarks (lines with a name) or of the
    pipeline (a table a seed).
    """
    found: dict[str, float] = {}
    lines = [line for line in record.get("lines", []) if isinstance(line, dict)]
    named = {line["name"]: line for line in lines if "name" in line}
    fusion = named.get("fusion, one view, each side in its own layout")
    if fusion:
        found["gather"] = (
            fusion["ours"] / 1e3 / (fusion["visible"] * fusion["dim"])
        )
        found["seen"] = fusion["visible"] / fusion["points"]
        found["visible"] = (
            named["share of copy bandwidth"]["visible_points_ms"]
            / 1e3
            / fusion["points"]
        )
    for name, line in named.items():
        if "frames_per_second" in line and _teacher(name) in job.teacher:
            found["model"] = 1 / line["frames_per_second"]
    title = f"{job.network}, against MinkowskiEngine, "
    steps = {
        (line["voxels"], line["name"]): line["ours"]
        for line in lines
        if line.get("name", "").startswith(title)
    }
    # the most voxels count
    for voxels in sorted(
        {size for size, name in steps if name == f"{title}backward"}
    ):
        found["network"] = (
            steps[voxels, f"{title}forward"] + steps[voxels, f"{title}backward"]
        ) / voxels
    for table in record.get("tables", {}).values():
        spent = {row["row"]: row["seconds"] for row in table}
        profile = PROFILES.get(record.get("profile", ""))
        if profile and {"adapter", "projection"} <= spent.keys():
            numbers = _adapter_points(profile) * 64  # of the small model
            found["adapter"] = (
                spent["adapter"] - spent["projection"]
            ) / numbers
    return found


def _teacher(name: str) -> str:
    """How a line of benchmarks/dense.py names a model, in the words of
    ``create_model``: read-outs cost alike.
    """
    return name.split()[0]


def _adapter_points(profile: Profile) -> int:
    return (
        profile.adapter.steps
        * profile.adapter.batch_rooms
        * profile.adapter.points_per_room
    )


def make_job(source: str, **given: Any) -> Job:
    """The job of a source, with whatever is given (not None) in place of its
    averages; ValueError for what is missing.

    >>> make_job("scannet", scenes=1201, dim=768).points
    150000
    """
    if source not in SOURCES:
        raise ValueError(
            f"unknown source {source!r}; known: {', '.join(SOURCES)}"
        )
    known, profile = SOURCES[source], PROFILES[SOURCES[source].profile]
    given = {name: value for name, value in given.items() if value is not None}
    points, teacher = (
        given.get("points", known.points),
        given.get("teacher", profile.teacher.name),
    )
    job = Job(
        scenes=profile.rooms.train + profile.rooms.test,
        points=points,
        frames=known.frames,
        width=profile.rooms.width,
        height=profile.rooms.height,
        dim=64 if teacher.startswith("small") else 768,
        teacher=teacher,
        network=profile.network.architecture,
        adapter_points=_adapter_points(profile),
        network_scenes=profile.training.steps * profile.training.batch_rooms,
        voxels=points,
    )
    job = replace(job, **given)
    sizes = {
        name: getattr(job, name)
        for name in (
            "scenes",
            "points",
            "frames",
            "width",
            "height",
            "dim",
            "voxels",
        )
    }
    wrong = [name for name, size in sizes.items() if size < 1]
    if wrong:
        raise ValueError(
            f"expected at least one of everything, found {sizes}; give"
            f" --{' --'.join(wrong)}"
        )
    return job


def with_given(rates: dict[str, Rate], given: list[str]) -> dict[str, Rate]:
    """The rates with those of the command line (NAME=VALUE) in place;
    ValueError for another name or no number.
    """
    rates = dict(rates)
    for text in given:
        name, _, value = text.partition("=")
        if name not in rates or not re.fullmatch(
            r"\d+\.?\d*([eE]-?\d+)?", value
        ):
            raise ValueError(
                f"expected --rate NAME=VALUE with a name of {', '.join(rates)},"
                f" found {text!r}"
            )
        rates[name] = replace(rates[name], value=float(value), where="given")
    return rates


def readable(size: float) -> str:
    """Bytes in the largest unit that leaves a number of at least 1.

    >>> readable(3_072_000_000)
    '3.07 GB'
    """
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    power = 0
    while size >= 1000 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {units[power]}"


def as_text(job: Job, rates: dict[str, Rate], said_by: str) -> str:
    """The plan for people: every number with what it rests on."""
    lines = [
        f"{job.scenes} scenes of {job.points} points and {job.frames} frames of"
        f" {job.width} x {job.height}"
    ]
    lines += [
        f"  ({said_by})",
        (
            f"{job.teacher}: maps of {job.cells[0]} x {job.cells[1]} cells of"
            f" {job.dim} numbers"
        ),
        "",
    ]
    for title, sizes in (("disk", disk(job)), ("memory", memory(job))):
        lines += [
            f"{title:8}{name:40}{readable(size):>12}"
            for name, size in sizes.items()
        ]
    for name, spent in seconds(job, rates).items():
        where = " ".join(rates[rate].where for rate in STAGES[name])
        device = (
            "GPU " if "cuda" in where else "" if "given" in where else "CPU "
        )
        told = "?" if spent is None else f"{spent / 3600:.3g} {device}h"
        lines.append(f"{'time':8}{name:40}{told:>12}")
    lines += ["", "rates:"]
    for rate in rates.values():
        value = "?" if rate.value is None else f"{rate.value:.3g}"
        lines.append(f"  {rate.name:9}{value:>9} {rate.unit}: {rate.where}")
    missing = [rate.name for rate in rates.values() if rate.value is None]
    if missing:
        lines.append(
            f"  not measured yet: {', '.join(missing)}; measure on your machine"
            " and give --rate NAME=VALUE"
        )
    return "\n".join(lines)


def main(
    source: Annotated[
        str, typer.Option(help=f"One of {', '.join(SOURCES)}.")
    ] = "scannet",
    scenes: Annotated[
        int | None, typer.Option(help="Scenes [those of the profile].")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Points a scene.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a scene.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    dim: Annotated[
        int | None, typer.Option(help="Dimensions of the embeddings.")
    ] = None,
    voxels: Annotated[
        int | None, typer.Option(help="Voxels a scene [its points].")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="The 2D model [that of the profile].")
    ] = None,
    max_memory: Annotated[
        int | None, typer.Option(help="Bytes for the sums of stage 1.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE in place of a measured rate."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.")
    ] = False,
) -> None:
    """Print disk, memory and time for a data set, and what each number rests
    on.
    """
    try:
        job = make_job(
            source,
            scenes=scenes,
            points=points,
            frames=frames,
            width=width,
            height=height,
            dim=dim,
            voxels=voxels,
            teacher=teacher,
            max_memory=max_memory,
        )
        rates = with_given(measured(job), rate or [])
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        parts = {
            "disk": disk(job),
            "memory": memory(job),
            "seconds": seconds(job, rates),
        }
        typer.echo(
            json.dumps(
                vars(job)
                | parts
                | {"rates": [vars(each) for each in rates.values()]},
                indent=2,
            )
        )
    else:
        typer.echo(as_text(job, rates, SOURCES[source].said_by))


if __name__ == "__main__":
    typer.run(main)
