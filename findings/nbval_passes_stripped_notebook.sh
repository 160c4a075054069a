#!/usr/bin/env bash
# One would guess: "pytest --nbval" compares what each cell prints with what is stored, and a notebook whose outputs
# were stripped for Git fails, since it prints what is not stored. At the least its cells count as skipped.
#
# What really happens: all cells pass. nbstripout takes away the outputs and the execution counts, and nbval compares
# nothing in a cell that has no execution count. A cell that asks for the check by its tag (nbval-check-output) passes
# as well, in the strict mode and in the lax one. The summary is the same as that of a notebook that was compared.
# An empty output that still has its count fails as expected, so keeping the counts decides it.
#
# Packages: nbval 0.11.0, nbstripout 0.9.1 (with pytest 9.2.0, ipykernel 7.4.0).
# Source: nbval 0.11.0, nbval/plugin.py, IPyNbCell.runtest (a cell without execution count is "unrun"), against the
# README, which promises that a cell fails when its output is another than the stored one. nbstripout 0.9.1 strips
# the counts unless --keep-count is given.
# Date: 2026-11-30.
#
# Whom it hurts and how: books and courses that test their notebooks with nbval and keep them small with nbstripout,
# two tools that are often set up together. From the first stripped commit on the tests only show that nothing raises.
# A metric in a chapter can change to any value and the build stays green.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --disable-pip-version-check nbval==0.11.0 nbstripout==0.9.1 pytest==9.2.0 \
    ipykernel==7.4.0 > "$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 2; }
export HOME="$folder" PATH="$folder/env/bin:$PATH" COLUMNS=100
cd "$folder"
cat > make.py <<'PY'
"""A chapter with a mean IoU that is computed wrongly: 0.58 is stored, and right; it prints 0.75."""
import nbformat
from nbformat import v4

stored = v4.new_output("stream", name="stdout", text="mean IoU 0.58\n")
cell = v4.new_code_cell(
    "print(f'mean IoU {(1 / 2 + 1) / 2:.2f}')  # right: (1 / 2 + 2 / 3) / 2",
    execution_count=1, outputs=[stored], metadata={"tags": ["nbval-check-output"]},
)
kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), "chapter.ipynb")
PY
python make.py
cp chapter.ipynb stripped.ipynb
cp chapter.ipynb counts_kept.ipynb
nbstripout stripped.ipynb
nbstripout --keep-count counts_kept.ipynb
python -c 'from importlib.metadata import version as v; print("nbval", v("nbval"), "nbstripout", v("nbstripout"), "pytest", v("pytest"))'
failed=0
try() {  # notebook, mode, exit status that is described here
    local status=0
    pytest -q -p no:cacheprovider -W ignore --color=no "$2" "$1" > run.log 2>&1 || status=$?
    echo "pytest $2 $1: $(tail -n 1 run.log); exit status $status"
    [ "$status" -eq "$3" ] || { failed=1; cat run.log; }
}
for mode in --nbval --nbval-lax; do
    try chapter.ipynb "$mode" 1
    try counts_kept.ipynb "$mode" 1
    try stripped.ipynb "$mode" 0
done
[ "$failed" -eq 0 ] || { echo "another behaviour than described"; exit 1; }
echo "as described: once stripped, the chapter with the wrong number passes"
