"""What made an artefact: a hash of the code behind it, so that stored files follow the code and nothing else."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vlg_lib.artifacts import hash_files, key_of

_TABLES = {path.name: path for path in (Path(__file__).parent / "assets").glob("*.toml")}


@cache
def code_key(*modules: str) -> str:
    """A hash of the source of modules, of all modules of this library that they import, and of the tables they read.

    A table is a file of ``assets`` that a module names (``"rooms.toml"``).

    >>> code_key("vlg_lib.classes") != code_key("vlg_lib.scene")
    True
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        spec = find_spec(name) if name.startswith("vlg_lib.") and name not in found else None
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        for node in ast.walk(ast.parse(found[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting.append(node.module)
                waiting += [f"{node.module}.{alias.name}" for alias in node.names if _is_package(node.module)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.Constant) and node.value in _TABLES:
                found[node.value] = _TABLES[node.value]
    return key_of(**{name: hash_files(path) for name, path in found.items()})


@cache
def _is_package(module: str) -> bool:
    spec = find_spec(module) if module.split(".")[0] == "vlg_lib" else None
    return spec is not None and spec.submodule_search_locations is not None
