"""Build the site into _build/html, strictly, from book/ and the executed
chapters in build/executed.

Nothing is executed here. The pages are staged in build/site, links between
book/ and notebooks/ are rewritten to where the pages now lie, and Jupyter Book
runs with warnings as errors. A build whose inputs have not changed is skipped.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from chapters import EXECUTED, ROOT, chapters, project, read_notebook, tags

BOOK = ROOT / "book"
STAGE = ROOT / "build" / "site"
OUTPUT = ROOT / "build" / "site_output"
HTML = ROOT / "_build" / "html"
LINK = re.compile(r"(\]\(|<img src=\")([^)\s\"#:]+)(#[^)\s\"]*)?(?=[)\"])")


def toc_pages(toc: Path) -> list[str]:
    """Every page of a table of contents, without suffix, in order."""

    def files(node: Any) -> list[str]:
        if isinstance(node, list):
            return [page for item in node for page in files(item)]
        if not isinstance(node, dict):
            return []
        own = [node[key] for key in ("root", "file") if key in node]
        return own + [
            page
            for key in ("parts", "chapters", "sections")
            for page in files(node.get(key))
        ]

    return files(yaml.safe_load(toc.read_text(encoding="utf-8")))


def sources(pages: list[str], executed: Path) -> dict[Path, Path]:
    """Where each staged file comes from: pages and assets of book/, chapters
    from the executed notebooks.
    """
    names = [Path(page).name for page in pages if page.startswith("notebooks/")]
    missing = [
        name for name in names if not (executed / f"{name}.ipynb").is_file()
    ]
    if missing:
        sys.exit(
            f"{', '.join(missing)}: not in {executed}; run `make notebooks`"
            " first"
        )
    unlisted = sorted({path.stem for path in chapters()} - set(names))
    if unlisted:
        sys.exit(
            f"{', '.join(unlisted)}: in notebooks/ but not in"
            f" {BOOK / '_toc.yml'}"
        )
    found = {
        path.relative_to(BOOK): path
        for path in sorted(BOOK.rglob("*"))
        if path.is_file() and _is_source(path)
    }
    return found | {
        Path("notebooks") / f"{name}.ipynb": executed / f"{name}.ipynb"
        for name in names
    }


def _is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and not path.name.startswith(".")


def relink(
    text: str, source: Path, staged: Path, moved: dict[Path, Path]
) -> str:
    """Rewrite relative links of a page that lies at ``source`` in the
    repository and at ``staged`` in the site.

    ``moved`` maps repository paths to staged paths. Links to files that the
    site does not hold become links to the repository's address; a link to
    nothing is an error.
    """

    def rewrite(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if match[2].startswith("/") or not target.is_relative_to(ROOT):
            return match[0]
        if target in moved:
            new = Path(os.path.relpath(moved[target], staged.parent)).as_posix()
        elif target.exists():
            path = target.relative_to(ROOT).as_posix()
            new = f"{project()['urls']['Repository']}/blob/main/{path}"
        else:
            sys.exit(
                f"{source.relative_to(ROOT)} links to {match[2]}, which does"
                " not exist"
            )
        return f"{match[1]}{new}{match[3] or ''}"

    return LINK.sub(rewrite, text)


def stage(pages: list[str], executed: Path) -> None:
    """Fill build/site."""
    shutil.rmtree(STAGE, ignore_errors=True)
    found = sources(pages, executed)
    origin = {
        new: ROOT / "notebooks" / old.name if old.suffix == ".ipynb" else old
        for new, old in found.items()
    }
    moved = {old: new for new, old in origin.items()}
    for new, old in found.items():
        target = STAGE / new
        target.parent.mkdir(parents=True, exist_ok=True)
        if old.suffix == ".md":
            target.write_text(
                relink(old.read_text(encoding="utf-8"), old, new, moved),
                encoding="utf-8",
            )
        elif old.suffix == ".ipynb":
            notebook = read_notebook(old)
            # papermill's own cell repeats the parameters; readers see the first
            # one.
            notebook["cells"] = [
                cell
                for cell in notebook["cells"]
                if "injected-parameters" not in tags(cell)
            ]
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = relink(
                        "".join(cell["source"]), origin[new], new, moved
                    )
            target.write_text(
                json.dumps(notebook, ensure_ascii=False), encoding="utf-8"
            )
        else:
            shutil.copy2(old, target)
    (STAGE / "_config.yml").write_text(
        yaml.safe_dump(configuration(), sort_keys=False), encoding="utf-8"
    )


def configuration() -> dict[str, Any]:
    """_config.yml with the repository's address and the Colab button, where
    pyproject.toml names a repository.
    """
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = project()["urls"]["Repository"]
    if "NOT_SET" not in address:
        config["repository"] = {
            "url": address,
            "path_to_book": "",
            "branch": "main",
        }
        config["html"]["use_repository_button"] = True
        config["launch_buttons"] = {
            "colab_url": "https://colab.research.google.com"
        }
    return config


def input_key() -> str:
    """A hash over everything that the site depends on."""
    digest = hashlib.sha256(sys.version.encode())
    library = [
        path for path in (ROOT / "vlg_lib").rglob("*") if path.suffix != ".pyc"
    ]
    settings = [
        ROOT / "requirements.txt",
        ROOT / "pyproject.toml",
        Path(__file__),
    ]
    for path in sorted([*STAGE.rglob("*"), *library, *settings]):
        if path.is_file():
            digest.update(
                str(path.relative_to(ROOT)).encode() + path.read_bytes()
            )
    return digest.hexdigest()


def build(pages: list[str]) -> None:
    """Run Jupyter Book, check that every page is there, and move the site into
    place.
    """
    shutil.rmtree(OUTPUT, ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(STAGE),
        "--path-output",
        str(OUTPUT),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-W", "-n", "--keep-going", "-q"],
        env=environment,
        check=False,
    )
    if done.returncode:
        sys.exit("the site has warnings or errors, see above")
    made = OUTPUT / "_build" / "html"
    missing = [
        page
        for page in [*pages, "index"]
        if not (made / f"{page}.html").is_file()
    ]
    if missing:
        sys.exit(
            "Jupyter Book ended well but these pages are missing:"
            f" {', '.join(missing)}"
        )
    shutil.rmtree(HTML, ignore_errors=True)
    HTML.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, HTML)
    shutil.rmtree(OUTPUT)


def main() -> int:
    """Stage and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--force",
        action="store_true",
        help="build even where nothing has changed",
    )
    options = parser.parse_args()
    start = time.perf_counter()
    pages = toc_pages(BOOK / "_toc.yml")
    stage(pages, EXECUTED)
    key, stamp = input_key(), HTML / ".inputs"
    if not options.force and stamp.is_file() and stamp.read_text() == key:
        print(
            f"site: unchanged, {len(pages)} pages in {HTML.relative_to(ROOT)}"
        )
        return 0
    print(f"site: building {len(pages)} pages ...", flush=True)
    build(pages)
    stamp.write_text(key)
    print(
        f"site: {len(pages)} pages in {HTML.relative_to(ROOT)},"
        f" {time.perf_counter() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
