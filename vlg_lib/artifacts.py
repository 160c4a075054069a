"""Files between stages: safetensors and JSON, each written whole or not at all,
each named by what made it.

Three parts: files and folders that appear whole (:func:`atomic_write`,
:func:`atomic_folder`), what stands in them (:func:`write_json`,
:func:`save_tensors`, :func:`once`), and the keys that name them
(:func:`key_of`, :func:`hash_files`, :func:`code_key`).
"""

import ast
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_MANIFEST = "manifest"


def plain_name(name: str) -> str:
    """The name of a weight without what ``torch.compile`` puts into it, so that
    a file does not tell whether its network was compiled.

    >>> plain_name("unet._orig_mod.conv0.kernel")
    'unet.conv0.kernel'
    """
    return name.replace("_orig_mod.", "")


class StoreError(ValueError):
    """A stored file is missing, cut short or foreign; the message names the
    file and the fix.
    """


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of ``path`` for writing and rename it into
    place when the block ends well.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _room_for(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside ``path`` and rename it into place
    when the block ends well.

    An existing folder at ``path`` is replaced by the new one, also one that
    another process has put there meanwhile. When the block fails, the temporary
    folder is removed and what stood at ``path`` stays as it was.
    """
    with (
        _room_for(path),
        TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as holder,
    ):
        new = Path(holder) / "new"
        new.mkdir()
        yield new
        _put_in_place(new, path, Path(holder))


def _put_in_place(new: Path, path: Path, holder: Path) -> None:
    """Rename a folder to ``path``; one that stands there goes into ``holder``,
    again and again while other processes put theirs.
    """
    for attempt in count():
        old = holder / f"old{attempt}"
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            new.rename(path)
            return
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            if old.exists():
                old.rename(path)
            raise


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Make the folder of a file that is to be written; a full disk's error
    names the file and says what to do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        fix = (
            "make room or choose another folder and run again: what is finished"
            " is kept"
        )
        raise OSError(
            error.errno, f"{os.strerror(error.errno)}; {fix}", str(path)
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; ValueError for NaN and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read JSON; StoreError where the file is missing or is not JSON."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path}: not JSON ({error}); delete the file and make it again"
        ) from error


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Write named tensors and a JSON manifest (what made them) into one
    safetensors file, atomically.
    """
    ready = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    metadata = {_MANIFEST: json.dumps(dict(manifest or {}), allow_nan=False)}
    with atomic_write(path) as file:
        file.write(save(ready, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote: (tensors, manifest). StoreError for
    a missing, cut or foreign file.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {}).get(_MANIFEST, "{}"))
            # not a mapping: a file of safetensors has only the method
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise StoreError(
            f"{path}: not a whole safetensors file ({error}); delete it and"
            " make it again"
        ) from error
    return tensors, manifest


def key_of(**parts: Any) -> str:
    """A short stable hash of JSON-able parts: the name under which an artefact
    that depends on them is kept.

    >>> key_of(seed=1, shift=0.5) == key_of(shift=0.5, seed=1)
    True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hash_files(*paths: Path) -> str:
    """A short hash of the contents of files (and of the ``*.py`` files in
    folders): artefacts follow the code.
    """
    files = [
        file
        for path in paths
        for file in (path.rglob("*.py") if path.is_dir() else [path])
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        for part in (file.name.encode(), file.read_bytes()):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


@cache
def code_key(*modules: str) -> str:
    """A hash of the source of modules and of all modules of this library that
    they import, by name, at whatever depth.

    >>> code_key("vlg_lib.classes") != code_key("vlg_lib.scene")
    True
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or not name.startswith("vlg_lib."):
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        waiting += _imported_by(found[name])
    return key_of(**{name: hash_files(path) for name, path in found.items()})


def _imported_by(source: Path) -> Iterator[str]:
    """The names of modules that a source file imports; of a name taken from a
    package, also the name as if it were a module there.
    """
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if _is_package(node.module):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"


@cache
def _is_package(module: str) -> bool:
    spec = find_spec(module) if module.split(".")[0] == "vlg_lib" else None
    return spec is not None and spec.submodule_search_locations is not None
