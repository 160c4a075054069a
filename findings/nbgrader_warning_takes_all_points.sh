#!/usr/bin/env bash
# One would guess: an autograded test cell that raises nothing gives its full points. A warning is not an error:
# assertions decide.
#
# What really happens: nbgrader takes any text on the error stream of the test cell for a failure. All its points are
# lost, though every assertion held. NumPy's warning on 0/0 is enough, and the IoU of a class that does not occur is
# 0/0. The model solution of the instructor itself gets 0 of 5. The same solution with that warning silenced gets
# 5 of 5. A logger and tqdm's plain progress bar print to the same stream.
#
# Package: nbgrader 0.9.6 (with nbclient 0.11.0, ipykernel 7.4.0, numpy 2.4.6). Other runners of notebooks execute the
# same notebook without an error.
# Source: nbgrader 0.9.6, nbgrader/utils.py, determine_grade; threads jupyter/nbgrader pull requests 1381 (the error
# stream counts because kernels of other languages report errors there) and 1904 (a filter for such warnings; it is
# off unless configured).
# Date: 2026-11-30.
#
# Whom it hurts and how: lecturers and students of courses on segmentation. A right mIoU gets no points, and only for
# those who wrote it so that NumPy warns. A new version of any library that adds a deprecation warning does the same
# to a whole class. Nothing in the cell looks failed but a red box with a warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --disable-pip-version-check nbgrader==0.9.6 nbclient==0.11.0 ipykernel==7.4.0 \
    numpy==2.4.6 > "$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 2; }
export HOME="$folder" PATH="$folder/env/bin:$PATH"
mkdir "$folder/course"
cd "$folder/course"
cat > ../make.py <<'PY'
"""The assignment with its model solution, as the instructor has it, and two students who hand that solution in."""
from pathlib import Path

import nbformat
from nbformat import v4

SOLUTION = """\
import numpy as np

def iou_per_class(truth, answer, classes):
    ### BEGIN SOLUTION
    table = np.zeros((classes, classes))
    np.add.at(table, (truth, answer), 1)
    hits = table.diagonal()
    return hits / (table.sum(axis=0) + table.sum(axis=1) - hits)
    ### END SOLUTION"""
TEST = """\
iou = iou_per_class(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), classes=3)
assert abs(iou[0] - 1 / 2) < 1e-12
assert abs(iou[1] - 2 / 3) < 1e-12
assert np.isnan(iou[2]), "class 2 does not occur"
"""


def role(name, points=0):
    words = {"grade_id": name, "grade": points > 0, "solution": points == 0, "locked": points > 0, "task": False}
    return {"nbgrader": {**words, "schema_version": 3, "cell_type": "code", **({"points": points} if points else {})}}


def write(path, solution):
    cells = [v4.new_code_cell(solution, metadata=role("solution")), v4.new_code_cell(TEST, metadata=role("test", 5))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


write(Path("source/iou/iou.ipynb"), SOLUTION)
write(Path("submitted/model_solution/iou/iou.ipynb"), SOLUTION)
quiet = SOLUTION.replace("import numpy as np", "import numpy as np\nnp.seterr(invalid='ignore')")
write(Path("submitted/warning_silenced/iou/iou.ipynb"), quiet)
PY
cat > ../points.py <<'PY'
import sys
from importlib.metadata import version

import nbformat
from nbgrader.api import Gradebook

print("nbgrader", version("nbgrader"), "numpy", version("numpy"))
seen = {}
with Gradebook("sqlite:///gradebook.db") as book:
    for student in ("model_solution", "warning_silenced"):
        cell = nbformat.read(f"autograded/{student}/iou/iou.ipynb", 4).cells[1]
        failed = any(output.output_type == "error" for output in cell.outputs)
        words = [output.text.strip() for output in cell.outputs if output.get("name") == "stderr"]
        (grade,) = (g for g in book.find_submission_notebook("iou", "iou", student).grades if g.max_score)
        seen[student] = (failed, len(words), grade.score, grade.max_score)
        print(f"{student}: an assertion failed: {failed}; {grade.score} of {grade.max_score} points; on the error stream:")
        print("   ", words[0].split(": ", 1)[1].splitlines()[0] if words else "nothing")
if seen != {"model_solution": (False, 1, 0.0, 5.0), "warning_silenced": (False, 0, 5.0, 5.0)}:
    sys.exit(f"another behaviour than described: {seen}")
print("as described: a warning takes all points of a right answer")
PY
python ../make.py
{ nbgrader generate_assignment iou && nbgrader autograde iou; } > ../nbgrader.log 2>&1 || { cat ../nbgrader.log; exit 1; }
jupyter execute submitted/model_solution/iou/iou.ipynb > ../execute.log 2>&1 || { cat ../execute.log; exit 1; }
echo "jupyter execute: the model solution runs without an error"
python ../points.py
