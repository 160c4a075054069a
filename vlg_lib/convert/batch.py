"""What converters of many scenes share: several at once, resumed, one bad scene
among good ones, counts at the end.

A converter writes one scene with :func:`vlg_lib.data.layout.write_scene`, which
lets a folder appear whole or not at all, and hands a function that does so to
:func:`convert_all`::

    settings = {"frame_skip": 20}
    # convert(name, folder) writes one scene
    convert = partial(convert_scene, scans=scans, settings=settings)
    print(convert_all(names, convert, out, settings=settings, jobs=4))

``convert`` passes ``provenance=provenance("vlg convert x", name, settings)`` to
``write_scene``: a scene that is there with the same settings is kept by the
next run. With several jobs it runs in other processes, so it must be a function
of a module (or a ``partial`` of one), and a script starts its work under ``if
__name__ == "__main__"``.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from vlg_lib.convert.frames import counts_text
from vlg_lib.data.files import read_text
from vlg_lib.data.layout import LayoutError, read_manifest

ConvertOne = Callable[[str, Path], None]
"""Writes the scene of a name into a folder; raises ValueError or OSError,
naming the file, where it cannot."""


@dataclass
class Summary:
    """What a conversion of many scenes did; printed, it is the counts, the
    notes and the failures, one a line.
    """

    out: Path
    """The folder that receives the scenes."""
    converted: list[str] = field(default_factory=list)
    """Names of the scenes that were written."""
    kept: list[str] = field(default_factory=list)
    """Names of those that were there already, made with the same settings."""
    failed: dict[str, str] = field(default_factory=dict)
    """The errors of those that failed, by name."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Frames left out of all scenes that are there, by reason."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the source, such as parts that are missing."""

    @property
    def headline(self) -> str:
        """The counts in one line."""
        in_order = Counter(dict(sorted(self.skipped.items())))
        return (
            f"{self.out}: {len(self.converted)} scenes converted,"
            f" {len(self.kept)} kept, {len(self.failed)} failed; left out:"
            f" {counts_text(in_order)}"
        )

    def __str__(self) -> str:
        return "\n".join(
            [
                self.headline,
                *(f"note: {note}" for note in self.notes),
                *(
                    f"failed: {name}: {error}"
                    for name, error in self.failed.items()
                ),
            ]
        )


def provenance(
    converter: str,
    source: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a scene's ``scene.json`` says about its making.

    ``converter``: the command that made it. ``source``: its name there.
    ``settings``: they decide whether the next run keeps it. ``facts``: what
    else is worth knowing (JSON-able).

    >>> made = provenance("vlg convert tum", "a", {"every": 10}, {"up": "z"})
    >>> made["settings"], made["up"]
    ({'every': 10}, 'z')
    """
    return {
        "converter": converter,
        "source": source,
        "settings": _as_json(settings),
        **(facts or {}),
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
    in a process of its own where there are several.

    ``settings``: what decides how a scene comes out, as ``convert_one`` stores
    it (see :func:`provenance`). ``progress``: whether to show a bar. Scenes
    that are there, made with equal ``settings``, are kept. A scene that fails
    is named in the summary with its error, and the others are converted all the
    same, even where it takes its process down with it (then what was left is
    converted one by one). ValueError for a name given twice and for less than
    one job.
    """
    if jobs < 1 or len(set(names)) != len(names):
        raise ValueError(
            f"expected one job or more and different names, found {jobs} jobs"
            f" and {list(names)}"
        )
    settings = _as_json(settings)
    summary = Summary(
        out,
        kept=[name for name in names if _is_converted(out / name, settings)],
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
        manifest = read_manifest(out / name)
        summary.skipped.update(manifest["skipped"])
        summary.notes += _notes(name, manifest)
    return summary


def _notes(name: str, manifest: Mapping[str, Any]) -> list[str]:
    """What a scene tells of its making: what was assumed, and the first frame
    that was left out for each reason.
    """
    made, counts = manifest["provenance"], manifest["skipped"]
    left_out = made.get("left_out", {})
    return [
        *(f"{name}: {remark}" for remark in made.get("assumed", [])),
        *(
            f"{name}: {counts.get(reason, 0)} x {reason}, first {what}"
            for reason, what in left_out.items()
        ),
    ]


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
    """Settings as they come back from a file: tuples as lists, paths as
    text.
    """
    text = json.dumps(dict(settings), allow_nan=False, default=_path_text)
    return dict(json.loads(text))


def _path_text(value: Any) -> str:
    if not isinstance(value, Path):
        raise TypeError(f"{type(value).__name__} is no setting: {value!r}")
    return str(value)


def _is_converted(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a scene is there that was made with these settings, by whatever
    the converter was called then.
    """
    try:
        made = read_manifest(folder)["provenance"]
    except LayoutError:
        return False
    return bool(made.get("settings") == settings)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left of a scene: the temporary folders in which
    ``vlg_lib.artifacts`` builds it.
    """
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}")
    for path in folder.parent.glob(".*") if folder.parent.is_dir() else ():
        if pattern.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def chosen(
    available: Sequence[str],
    scenes: Sequence[str] = (),
    split: Path | None = None,
) -> list[str]:
    """The scenes to convert: named, listed one a line in a split file, both, or
    all there are.

    ValueError naming the first that is not among ``available``.

    >>> chosen(["a", "b", "c"], ["c", "a"]), chosen(["a", "b"])
    (['c', 'a'], ['a', 'b'])
    """
    wanted = list(scenes)
    if split is not None:
        if not split.is_file():
            raise ValueError(
                f"{split}: no such file; expected a list of scenes, one a line"
            )
        lines = read_text(split).splitlines()
        wanted += [line.strip() for line in lines if line.strip()]
    missing = [name for name in wanted if name not in set(available)]
    if missing:
        raise ValueError(
            f"{len(missing)} scenes are not there, first {missing[0]!r}; there"
            f" are {len(available)}: {', '.join(available[:3])} ..."
        )
    if not wanted and split is None:
        return list(available)
    return list(dict.fromkeys(wanted))
