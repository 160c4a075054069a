"""What converters of many scenes share: several at once, resumed, one bad scene
among good ones, counts at the end.

A converter writes one scene with :func:`vlg_lib.data.layout.write_scene`, which
lets a folder appear whole or not at all, and hands a function that does so to
:func:`convert_all`::

    settings = {"frame_skip": 20}
    convert = partial(convert_scene, scans=scans, settings=settings)  # convert(name, folder) writes one scene
    finish(convert_all(names, convert, out, settings=settings, jobs=4), out)

``convert`` passes ``provenance=provenance("data_scripts/convert_x.py", name,
settings)`` to ``write_scene``: a scene that is there with the same settings is
kept by the next run. With several jobs it runs in other processes, so it must
be a function of a module (or a ``partial`` of one), and the script starts its
work under ``if __name__ == "__main__"``.
"""

import json
import multiprocessing
import os
import re
import shutil
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor
from tqdm.auto import tqdm

from vlg_lib.classes import ClassSet
from vlg_lib.data.layout import LayoutError, read_manifest

ConvertOne = Callable[[str, Path], None]
"""Writes the scene of a name into a folder; raises ValueError or OSError,
naming the file, where it cannot."""


@dataclass
class Summary:
    """What a conversion did: names of scenes written and kept, the errors of
    those that failed, frames left out.
    """

    converted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def provenance(
    converter: str, source: str, settings: Mapping[str, Any], **facts: Any
) -> dict[str, Any]:
    """What a scene's ``scene.json`` says about its making; ``settings`` decide
    whether the next run keeps it.
    """
    return {
        "converter": converter,
        "source": source,
        "settings": _as_json(settings),
        **facts,
    }


def convert_all(
    names: Sequence[str],
    convert_one: ConvertOne,
    out: Path,
    *,
    settings: Mapping[str, Any],
    jobs: int = 1,
    progress: bool = True,
) -> Summary:
    """Convert scenes into folders ``out/NAME``, ``jobs`` of them at once, each
    in a process of its own.

    Scenes that are there, made with equal ``settings``, are kept. A scene that
    fails is named in the summary with its error, and the others are converted
    all the same, even where it takes its process down with it (then what was
    left is converted one by one). ValueError for a name given twice and for
    less than one job.
    """
    if jobs < 1 or len(set(names)) != len(names):
        raise ValueError(
            f"expected one job or more and different names, found {jobs} jobs"
            f" and {list(names)}"
        )
    settings = _as_json(settings)
    summary = Summary(
        kept=[name for name in names if _is_converted(out / name, settings)]
    )
    kept = set(summary.kept)
    todo = [name for name in names if name not in kept]
    for name in todo:
        _remove_leftovers(out / name)
    bar = tqdm(
        total=len(names),
        initial=len(kept),
        desc="scenes",
        unit="scene",
        disable=None if progress else True,
    )
    with bar:
        for name, error in _results(todo, convert_one, out, jobs):
            if error is None and not _is_converted(out / name, settings):
                error = (
                    f"{out / name}: no scene with these settings was written (a"
                    " defect of the converter)"
                )
            if error is None:
                summary.converted.append(name)
            else:
                summary.failed[name] = error
                bar.write(f"failed: {name}: {error}")
            bar.update()
    for name in (*summary.converted, *summary.kept):
        summary.skipped.update(read_manifest(out / name)["skipped"])
    return summary


def _results(
    names: Sequence[str], convert_one: ConvertOne, out: Path, jobs: int
) -> Iterator[tuple[str, str | None]]:
    """(name, error or None) of each scene, in the order in which they end."""
    if jobs == 1:
        for name in names:
            yield name, _try(convert_one, name, out / name)
        return
    left = list(names)
    for name, error in _pooled(names, convert_one, out, jobs):
        left.remove(name)
        yield name, error
    # a process died, and nobody knows of which scene: one by one it shows
    for name in left:
        died = (
            f"{out / name}: the process that converted it was killed (out of"
            " memory?); run again with fewer jobs"
        )
        yield next(_pooled([name], convert_one, out, 1), (name, died))


def _pooled(
    names: Sequence[str], convert_one: ConvertOne, out: Path, workers: int
) -> Iterator[tuple[str, str | None]]:
    """The results of other processes; once one of them dies, the scenes that
    have not ended are left out.
    """
    # Forking a process in which torch has started threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker
    ) as pool:
        futures: dict[Future[str | None], str] = {}
        try:
            for name in names:
                futures[pool.submit(_try, convert_one, name, out / name)] = name
        except BrokenProcessPool:
            pass  # those submitted before say so, too
        try:
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """In another process: one thread for torch, and an end with the process
    that started it, even if that is killed.
    """
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without it a process whose parent was killed would wait for work, and
    keep its memory, for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _try(convert_one: ConvertOne, name: str, folder: Path) -> str | None:
    """Convert one scene; the error in words where it fails, so that one bad
    scene does not end a run over many.
    """
    try:
        convert_one(name, folder)
    except (ValueError, OSError) as error:
        return str(error)
    # a defect of the converter: say where, and go on with the other scenes
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {error} ({Path(last.filename).name}, line"
            f" {last.lineno})"
        )
    return None


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file: tuples as lists."""
    return dict(json.loads(json.dumps(dict(settings), allow_nan=False)))


def _is_converted(folder: Path, settings: Mapping[str, Any]) -> bool:
    try:
        return bool(
            read_manifest(folder)["provenance"].get("settings") == settings
        )
    except LayoutError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left of a scene: the temporary folders in which
    ``vlg_lib.artifacts`` builds it.
    """
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}")
    for path in folder.parent.glob(".*") if folder.parent.is_dir() else ():
        if pattern.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """The work of a command: a wrong setting or file ends it with one line and
    exit status 2, not with a traceback.
    """
    try:
        yield
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def finish(summary: Summary, out: Path) -> None:
    """Print what was done; exit status 1, naming them, where scenes failed."""
    left_out = (
        ", ".join(
            f"{count} x {reason}"
            for reason, count in sorted(summary.skipped.items())
        )
        or "none"
    )
    typer.echo(
        f"{out}: {len(summary.converted)} scenes converted, {len(summary.kept)}"
        f" kept, {len(summary.failed)} failed; left out: {left_out}"
    )
    for name, error in summary.failed.items():
        typer.echo(f"failed: {name}: {error}", err=True)
    if summary.failed:
        raise typer.Exit(1)


def chosen(
    available: Sequence[str], scenes: str = "", split: Path | None = None
) -> list[str]:
    """The scenes to convert: named (comma-separated), listed one a line in a
    split file, both, or all there are.

    ValueError naming the first that is not among ``available``.
    """
    wanted = [name.strip() for name in scenes.split(",") if name.strip()]
    if split is not None:
        if not split.is_file():
            raise ValueError(
                f"{split}: no such file; expected a list of scenes, one a line"
            )
        wanted += [
            line.strip()
            for line in split.read_text(errors="replace").splitlines()
            if line.strip()
        ]
    missing = [name for name in wanted if name not in set(available)]
    if missing:
        raise ValueError(
            f"{len(missing)} scenes are not there, first {missing[0]!r}; there"
            f" are {len(available)}: {', '.join(available[:3])} ..."
        )
    return (
        list(dict.fromkeys(wanted))
        if wanted or split is not None
        else list(available)
    )


def tags_of(
    point_labels: Tensor, class_set: ClassSet, at_least: int = 1
) -> Tensor:
    """Scene labels (K,) bool from point labels (N,): the classes that
    ``at_least`` points carry.
    """
    return (
        torch.bincount(
            point_labels[point_labels >= 0], minlength=len(class_set)
        )
        >= at_least
    )


def read_tags(path: Path, class_set: ClassSet) -> dict[str, Tensor]:
    """Scene labels typed by a person, by scene: a file of lines ``SCENE: class,
    class``; "#" begins a comment line.

    ValueError naming the file and line for an unknown class, a scene given
    twice, or a line of another form.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; expected lines 'SCENE: class, class'"
        )
    tags: dict[str, Tensor] = {}
    for number, line in enumerate(
        path.read_text(errors="replace").splitlines(), start=1
    ):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, classes = (part.strip() for part in line.partition(":"))
        if not colon or name in tags:
            raise ValueError(
                f"{path}, line {number}: expected 'SCENE: class, class', each"
                f" scene once, found {line!r}"
            )
        try:
            tags[name] = class_set.mask(
                word.strip() for word in classes.split(",") if word.strip()
            )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return tags
