#!/usr/bin/env bash
# One would guess: SparseMaxPool3d gives the largest of the occupied voxels under its window, as max pooling does
# everywhere. Empty voxels do not take part. Of -3 and -1 the largest is -1.
#
# What really happens: the output is 0. The native algorithm, the one that runs on a CPU, starts its maximum at zero
# and not at minus infinity. Where all voxels of a window are negative, the answer is a value that none of them has,
# and no gradient flows back to any of them. A window that is fully occupied gives 0, too, so it is not the empty
# voxels that take part. With one positive voxel in the window all is right.
#
# Package: spconv 2.3.8 (with cumm 0.7.11, torch 2.13.0, numpy 2.4.6), on a CPU. The algorithm for GPUs that is taken
# by default there (implicit GEMM) was not run.
# Source: spconv 2.3.8, spconv/pytorch/ops.py, indice_maxpool (out_features is made by torch.zeros, for CPU and CUDA);
# thread traveller59/spconv issue 754, which reports it for windows with empty voxels.
# Date: 2026-11-30.
#
# Whom it hurts and how: whoever pools before the activation, or pools scores, logits, cosines or coordinates on a
# sparse grid, and whoever moves weights over from MinkowskiEngine and compares. After a ReLU nothing shows, so tests
# on such networks pass. Elsewhere strongly negative regions turn into 0, often the highest score of all, and the
# layers below them learn nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --disable-pip-version-check spconv==2.3.8 cumm==0.7.11 torch==2.13.0 numpy==2.4.6 \
    > "$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 2; }
cd "$folder"
cat > pool.py <<'PY'
import itertools
import sys
from importlib.metadata import version

import spconv.pytorch as spconv
import torch

print("spconv", version("spconv"), "torch", torch.__version__)

# Three windows of 2 x 2 x 2 voxels: one with two voxels, one with all eight, one with two, one of them positive.
full = [(2 + x, 2 + y, 2 + z) for x, y, z in itertools.product((0, 1), repeat=3)]
places = [(0, 0, 0), (1, 1, 1), *full, (4, 4, 4), (5, 4, 4)]
values = [-3.0, -1.0, *[-8.0 + i for i in range(8)], -2.0, 4.0]
indices = torch.tensor([(0, *place) for place in places], dtype=torch.int32)
features = torch.tensor(values)[:, None].requires_grad_()
pooled = spconv.SparseMaxPool3d(2, 2)(spconv.SparseConvTensor(features, indices, [8, 8, 8], 1))
pooled.features.sum().backward()
got = {tuple(row[1:]): value for row, value in zip(pooled.indices.tolist(), pooled.features[:, 0].tolist())}

# The same on a dense grid, where an empty voxel is minus infinity.
grid = torch.full((1, 1, 8, 8, 8), -torch.inf)
for place, value in zip(places, values):
    grid[(0, 0, *place)] = value
dense = torch.nn.functional.max_pool3d(grid, 2)[0, 0]

windows = {"two voxels, both negative": (0, 0, 0), "eight voxels, all negative": (1, 1, 1), "one voxel positive": (2, 2, 2)}
for words, window in windows.items():
    print(f"{words}: spconv {got[window]}, largest occupied voxel {dense[window].item()}")
gradient = features.grad[:, 0]
print("gradient at the ten voxels of the negative windows:", gradient[:10].tolist(), "and of the third:", gradient[10:].tolist())

seen = [got[window] for window in windows.values()]
right = [dense[window].item() for window in windows.values()]
if seen != [0.0, 0.0, 4.0] or right != [-1.0, -1.0, 4.0] or gradient.tolist() != [0.0] * 11 + [1.0]:
    sys.exit("another behaviour than described")
print("as described: the maximum of negative numbers is 0")
PY
env/bin/python pool.py 2> warnings.log || { cat warnings.log; exit 1; }
