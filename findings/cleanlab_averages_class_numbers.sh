#!/usr/bin/env bash
# One would guess: find_label_issues(..., downsample=2) looks at blocks of 2 x 2 pixels, so it is coarser at the
# borders of things. How the classes are numbered cannot matter: a class number is a name. In each block the most
# frequent label counts, or the probability of the given labels is averaged.
#
# What really happens: the label of a block is the rounded mean of the class numbers in it. Half a block of class 0
# and half of class 2 is class 1. Where the model says class 1 there, every label of the block is wrong, and none is
# reported. The same images with the same classes in another order give all of them. Without downsample the order of
# the classes changes nothing.
#
# Package: cleanlab 2.9.0 (with numpy 2.4.6, scikit-learn 1.9.1), cleanlab.segmentation.filter.find_label_issues.
# Source: cleanlab 2.9.0, cleanlab/segmentation/filter.py, downsample_arrays (mean over the block, then numpy.round).
# The docstring speaks of "over-compression" only. cleanlab.segmentation.rank hands the same factor on to it for the
# method "num_pixel_issues". No thread on it was found.
# Date: 2026-11-30.
#
# Whom it hurts and how: whoever cleans pseudo labels of images, where labels of two wrong classes flicker from pixel
# to pixel (votes of two views, resampled masks). downsample is the documented way to make the search faster. Labels
# that are all wrong are taken for clean, the count of label errors is too low, and it changes when somebody sorts the
# class list anew. A mean over neighbours that are both right can name a third class, too: (wall 0 + door 2) / 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --disable-pip-version-check cleanlab==2.9.0 numpy==2.4.6 scikit-learn==1.9.1 \
    > "$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 2; }
cd "$folder"
cat > find.py <<'PY'
import sys

import cleanlab
import numpy as np
from cleanlab.segmentation.filter import find_label_issues

print("cleanlab", cleanlab.__version__, "numpy", np.__version__)

# Eight pictures of 32 x 32: wall on the left, a board in the middle, a door on the right. Every label is right but
# for one patch of the board, whose columns say wall, door, wall, door. The model is right everywhere, at 0.9.
names = ("wall", "board", "door")
truth = np.zeros((8, 32, 32), dtype=int)
truth[:, :, 10:20] = 1
truth[:, :, 20:] = 2
wrong = np.zeros(truth.shape, dtype=bool)
wrong[:, 8:16, 10:20] = True
labels = truth.copy()
labels[:, 8:16, 10:20:2] = 0
labels[:, 8:16, 11:20:2] = 2


def found(numbers, downsample):
    """Planted errors found, and false alarms, when wall, board, door have these numbers."""
    numbers = np.array(numbers)
    probabilities = np.full((8, 3, 32, 32), 0.05)
    for number in range(3):
        probabilities[:, number][numbers[truth] == number] = 0.9
    issues = find_label_issues(numbers[labels], probabilities, downsample=downsample, n_jobs=1, verbose=False)
    return int((issues & wrong).sum()), int((issues & ~wrong).sum())


planted = int(wrong.sum())
orders = {"board is 1": (0, 1, 2), "board is 0": (1, 0, 2), "board is 2": (0, 2, 1)}
seen = {}
print("planted label errors:", planted)
for order, numbers in orders.items():
    listed = ", ".join(f"{name} {number}" for name, number in zip(names, numbers))
    for downsample in (1, 2):
        seen[order, downsample] = found(numbers, downsample)
        hits, alarms = seen[order, downsample]
        print(f"{listed}; downsample={downsample}: {hits} found, {alarms} false alarms")

expected = {(order, downsample): (planted, 0) for order in orders for downsample in (1, 2)}
expected["board is 1", 2] = (0, 0)
if seen != expected:
    sys.exit(f"another behaviour than described: {seen}")
print("as described: at downsample=2 all errors or none are found, by the numbers that the classes happen to have")
PY
env/bin/python find.py
