"""Files between stages: safetensors and JSON, each written whole or not at all,
each named by what made it.
"""

import ast
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
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


class StoreError(ValueError):
    """A stored file is missing, cut short or foreign; the message names the
    file and the fix.
    """


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
        for attempt in count():
            old = Path(holder) / f"old{attempt}"
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


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; NaN and infinity are refused
    (ValueError).
    """
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
            return {
                name: file.get_tensor(name) for name in file.keys()
            }, manifest
    except (SafetensorError, json.JSONDecodeError) as error:
        raise StoreError(
            f"{path}: not a whole safetensors file ({error}); delete it and"
            " make it again"
        ) from error


def key_of(**parts: Any) -> str:
    """A short stable hash of JSON-able parts: the name under which an artefact
    that depends on them is kept.
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hash_files(*paths: Path) -> str:
    """A short hash of the contents of files (and of the ``*.py`` files in
    folders): artefacts follow the code.
    """
    digest = hashlib.sha256()
    for path in sorted(
        file
        for given in paths
        for file in (given.rglob("*.py") if given.is_dir() else [given])
    ):
        for part in (path.name.encode(), path.read_bytes()):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


def once(
    path: Path,
    make: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
) -> dict[str, Tensor]:
    """The tensors stored at ``path``; made by ``make`` and stored first where
    the file is not there yet.
    """
    if not path.is_file():
        save_tensors(path, *make())
    return load_tensors(path)[0]


_TABLES = {
    path.name: path
    for path in (Path(__file__).parent / "assets").glob("*.toml")
}


@cache
def code_key(*modules: str) -> str:
    """A hash of the source of modules, of all modules of this library that they
    import, and of the tables they read.

    A table is a file of ``assets`` that a module names (``"rooms.toml"``).

    >>> code_key("vlg_lib.classes") != code_key("vlg_lib.scene")
    True
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        spec = (
            find_spec(name)
            if name.startswith("vlg_lib.") and name not in found
            else None
        )
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        for node in ast.walk(
            ast.parse(found[name].read_text(encoding="utf-8"))
        ):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting.append(node.module)
                waiting += [
                    f"{node.module}.{alias.name}"
                    for alias in node.names
                    if _is_package(node.module)
                ]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.Constant) and node.value in _TABLES:
                found[node.value] = _TABLES[node.value]
    return key_of(**{name: hash_files(path) for name, path in found.items()})


@cache
def _is_package(module: str) -> bool:
    spec = find_spec(module) if module.split(".")[0] == "vlg_lib" else None
    return spec is not None and spec.submodule_search_locations is not None
