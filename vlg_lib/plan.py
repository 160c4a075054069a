"""How much disk, memory and time a data set will take, before anything is
downloaded: ``vlg plan``.

Bytes follow from formulas, and are exact but for images, whose compressed size
was measured. Times follow from rates that were measured: they are read from the
records in a folder of results, named with the machine that they were measured
on, and printed with them. A rate that no record holds is not guessed: measure
it, record it, or give it (``--rate NAME=VALUE``, in the unit that the plan
prints). What a data set holds is an average from its publication; what is
given replaces it.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlg_lib.artifacts import read_json
from vlg_lib.pipeline.profiles import PROFILES, Profile

BYTES_A_PIXEL = 3.1
"""On disk, of colour and depth together."""
BYTES_A_POINT = 34
"""On disk, in the layout."""
BYTES_TO_SEE_A_POINT = 200
"""In memory, while the visible points of a frame are found."""
BYTES_TO_LEARN_FROM_A_POINT = 31
"""In memory, in stage 3: place, colour, label and weights."""
BYTES_TO_BEGIN = 600e6
"""In memory, of the interpreter with torch."""
SMALL_DIM = 64
"""Dimensions of the small models' embeddings."""


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
    """Scenes in all."""
    points: int
    """Points a scene."""
    frames: int
    """Frames a scene."""
    width: int
    """Of a frame, pixels."""
    height: int
    """Of a frame, pixels."""
    dim: int
    """Numbers of an embedding."""
    teacher: str
    """The name of the 2D model."""
    network: str
    """The architecture of the 3D network."""
    adapter_points: int
    """Steps of stage 2 times points a step."""
    network_scenes: int
    """Steps of stage 3 times scenes a step."""
    voxels: int
    """Voxels a scene."""
    max_memory: int | None = None
    """Bytes for the sums of stage 1, None: no limit."""

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


def find_results(folder: Path | None = None) -> Path | None:
    """The folder of records: the one that is given, else ``results/`` of the
    checkout that this library is used from, else None.

    A wheel brings no records. ValueError where the given folder holds none.
    """
    if folder is None:
        checkout = Path(__file__).resolve().parents[1]
        is_checkout = (checkout / "pyproject.toml").is_file()
        return checkout / "results" if is_checkout else None
    if not any(folder.glob("*.json")):
        raise ValueError(
            f"{folder}: expected the folder of recorded rates (*.json), such as"
            " results/ of a checkout, found no record"
        )
    return folder


def measured(job: Job, results: Path | None) -> dict[str, Rate]:
    """The rates that the records in a folder hold, and empty ones for the
    others; all are empty without a folder.
    """
    units = {
        "model": f"s a frame, {job.teacher}",
        "gather": "s a number",
        "seen": "of the points a frame",
        "visible": "s a point and frame",
        "adapter": "s a number",
        "network": f"s a voxel, {job.network}",
    }
    rates = {name: Rate(name, unit) for name, unit in units.items()}
    if results is None:
        return rates
    records = [
        (_machine(record), f"{results.name}/{path.name}", record)
        for path in results.glob("*.json")
        for record in [read_json(path)]
    ]
    # the last counts: a GPU's before a CPU's
    for machine, name, record in sorted(
        records, key=lambda each: ("cuda" in each[0], each[1])
    ):
        for rate, value in _rates_of(record, job).items():
            rates[rate] = replace(
                rates[rate], value=value, where=f"{name}, {machine}"
            )
    return rates


def _machine(record: dict[str, Any]) -> str:
    devices = {line["device"] for line in _lines(record) if "device" in line}
    return ", ".join(
        [record.get("hardware", "unknown machine"), *sorted(map(str, devices))]
    )


def _lines(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in record.get("lines", []) if isinstance(line, dict)]


def _rates_of(record: dict[str, Any], job: Job) -> dict[str, float]:
    """The rates in one record: of the benchmarks (lines with a name) or of the
    pipeline (a table a seed).
    """
    named = [line for line in _lines(record) if "name" in line]
    return (
        _fusion_rates({line["name"]: line for line in named})
        | _model_rate(named, job.teacher)
        | _network_rate(named, job.network)
        | _adapter_rate(record)
    )


def _fusion_rates(named: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Gathering a number, the share of points seen, finding the visible ones:
    ``benchmarks/fusion.py``.
    """
    view = named.get("fusion, one view, each side in its own layout")
    if not view:
        return {}
    search = named["share of copy bandwidth"]
    return {
        "gather": view["ours"] / 1e3 / (view["visible"] * view["dim"]),
        "seen": view["visible"] / view["points"],
        "visible": search["visible_points_ms"] / 1e3 / view["points"],
    }


def _model_rate(named: list[dict[str, Any]], teacher: str) -> dict[str, float]:
    """Seconds a frame of a 2D model: ``benchmarks/dense.py``, whose lines begin
    with the model's name. Read-outs cost alike.
    """
    speeds = [
        line["frames_per_second"]
        for line in named
        if "frames_per_second" in line and line["name"].split()[0] in teacher
    ]
    return {"model": 1 / speeds[-1]} if speeds else {}


def _network_rate(
    named: list[dict[str, Any]], network: str
) -> dict[str, float]:
    """Seconds a voxel of a training step, forward and backward, on the most
    voxels that were measured: ``benchmarks/sparse.py``.
    """
    title = f"{network}, against MinkowskiEngine, "
    steps = {
        (line["voxels"], line["name"].removeprefix(title)): line["ours"]
        for line in named
        if line["name"].startswith(title)
    }
    sizes = [voxels for voxels, name in steps if name == "backward"]
    if not sizes:
        return {}
    most = max(sizes)
    return {
        "network": (steps[most, "forward"] + steps[most, "backward"]) / most
    }


def _adapter_rate(record: dict[str, Any]) -> dict[str, float]:
    """Seconds a number of the adapter's training: the last table of a recorded
    pipeline, where its time is told.
    """
    found: dict[str, float] = {}
    for table in record.get("tables", {}).values():
        profile = PROFILES.get(record.get("profile", ""))
        spent = {row["row"]: row["seconds"] for row in table}
        if profile and {"adapter", "projection"} <= spent.keys():
            numbers = _adapter_points(profile) * SMALL_DIM
            found["adapter"] = (
                spent["adapter"] - spent["projection"]
            ) / numbers
    return found


def _adapter_points(profile: Profile) -> int:
    return (
        profile.adapter.steps
        * profile.adapter.batch_rooms
        * profile.adapter.points_per_room
    )


@dataclass(frozen=True)
class Given:
    """What a person says of the data, in place of a source's averages; None:
    the average.
    """

    scenes: int | None = None
    """Scenes."""
    points: int | None = None
    """Points a scene."""
    frames: int | None = None
    """Frames a scene."""
    width: int | None = None
    """Of a frame, pixels."""
    height: int | None = None
    """Of a frame, pixels."""
    dim: int | None = None
    """Dimensions of the embeddings."""
    voxels: int | None = None
    """Voxels a scene; None: its points."""
    teacher: str | None = None
    """The 2D model."""
    max_memory: int | None = None
    """Bytes for the sums of stage 1; None: no limit."""


def make_job(source: str, given: Given = Given()) -> Job:
    """The job of a source, with whatever is given in place of its averages;
    ValueError for an unknown source, and for what is missing.

    >>> make_job("scannet", Given(scenes=1201, dim=768)).points
    150000
    """
    if source not in SOURCES:
        raise ValueError(
            f"unknown source {source!r}; known: {', '.join(SOURCES)}"
        )
    profile = PROFILES[SOURCES[source].profile]
    teacher = given.teacher or profile.teacher.name
    points = SOURCES[source].points if given.points is None else given.points
    average = Job(
        scenes=profile.rooms.train + profile.rooms.test,
        points=points,
        frames=SOURCES[source].frames,
        width=profile.rooms.width,
        height=profile.rooms.height,
        dim=SMALL_DIM if teacher.startswith("small") else 768,
        teacher=teacher,
        network=profile.network.architecture,
        adapter_points=_adapter_points(profile),
        network_scenes=profile.training.steps * profile.training.batch_rooms,
        voxels=points,
    )
    said = {
        name: value
        for name, value in asdict(given).items()
        if value is not None
    }
    job = replace(average, **said)
    _check_sizes(job)
    return job


def _check_sizes(job: Job) -> None:
    """ValueError, naming the options, where there is none of something."""
    names = ("scenes", "points", "frames", "width", "height", "dim", "voxels")
    sizes = {name: getattr(job, name) for name in names}
    wrong = [name for name, size in sizes.items() if size < 1]
    if wrong:
        raise ValueError(
            f"expected at least one of everything, found {sizes}; give"
            f" --{' --'.join(wrong)}"
        )


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


def as_json(job: Job, rates: dict[str, Rate]) -> str:
    """The plan for programs: sizes in bytes, times in seconds."""
    told = {
        "disk": disk(job),
        "memory": memory(job),
        "seconds": seconds(job, rates),
        "rates": [asdict(rate) for rate in rates.values()],
    }
    return json.dumps(asdict(job) | told, indent=2)


def as_text(job: Job, rates: dict[str, Rate], said_by: str) -> str:
    """The plan for people: every number with what it rests on."""
    height, width = job.cells
    return "\n".join(
        [
            f"{job.scenes} scenes of {job.points} points and {job.frames}"
            f" frames of {job.width} x {job.height}",
            f"  ({said_by})",
            f"{job.teacher}: maps of {height} x {width} cells of"
            f" {job.dim} numbers",
            "",
            *_size_lines(job),
            *_time_lines(job, rates),
            "",
            "rates:",
            *_rate_lines(rates),
        ]
    )


def _size_lines(job: Job) -> list[str]:
    return [
        f"{title:8}{name:40}{readable(size):>12}"
        for title, sizes in (("disk", disk(job)), ("memory", memory(job)))
        for name, size in sizes.items()
    ]


def _time_lines(job: Job, rates: dict[str, Rate]) -> list[str]:
    """Hours by stage, and of which kind of device."""
    lines = []
    for name, spent in seconds(job, rates).items():
        where = " ".join(rates[rate].where for rate in STAGES[name])
        device = (
            "GPU " if "cuda" in where else "" if "given" in where else "CPU "
        )
        told = "?" if spent is None else f"{spent / 3600:.3g} {device}h"
        lines.append(f"{'time':8}{name:40}{told:>12}")
    return lines


def _rate_lines(rates: dict[str, Rate]) -> list[str]:
    """Each rate with where it was measured; what is missing, and what to do."""
    lines = []
    for rate in rates.values():
        value = "?" if rate.value is None else f"{rate.value:.3g}"
        lines.append(f"  {rate.name:9}{value:>9} {rate.unit}: {rate.where}")
    missing = [rate.name for rate in rates.values() if rate.value is None]
    if missing:
        lines.append(
            f"  not measured yet: {', '.join(missing)}; measure on your machine"
            " and give --rate NAME=VALUE"
        )
    if len(missing) == len(rates):
        lines.append(
            "  no recorded rates here: they are in the folder results/ of a"
            " checkout, not in the installed library; name it with --results"
        )
    return lines
