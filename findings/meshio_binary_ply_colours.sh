#!/usr/bin/env bash
# One would guess: meshio reads the colours of a PLY file as 0 to 255, whether the file is text or binary. The header
# says uchar, an unsigned byte, in both.
#
# What really happens: in a binary file uchar is read as a signed byte. 127 stays, 128 becomes -128, 200 becomes -56
# and white becomes -1. The text file with the same header is read right. Written out again by meshio, the property
# has the type int8, so the damage is now in the file, and a reader that is right gets negative colours. A file that
# spells the same type uint8 is read right.
#
# Package: meshio 5.3.5; the input is written by plyfile 1.1.5 (numpy 2.4.6), which spells the type uchar, as MeshLab,
# CloudCompare and ScanNet's meshes do.
# Format: PLY 1.0; types char, uchar, short, ushort, int, uint, float, double, or int8, uint8, ... float64.
# Source: meshio 5.3.5, src/meshio/ply/_ply.py, the table ply_to_numpy_dtype_string of _read_binary; thread
# nschloe/meshio pull request 1320 (proposed in 2022, still open in the copy that was read).
# Date: 2026-11-30.
#
# Whom it hurts and how: whoever brings meshes or labels through meshio. Bright surfaces (walls, ceilings) get negative
# colours, dark ones stay right, so a glance at a few numbers does not show it. A network that divides by 255 is fed
# -0.5 to 0.5. Of ScanNet200's 200 classes those from 128 on become negative, which often means "unlabelled".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --disable-pip-version-check meshio==5.3.5 plyfile==1.1.5 numpy==2.4.6 \
    > "$folder/pip.log" 2>&1 || { cat "$folder/pip.log"; exit 2; }
cd "$folder"
cat > read.py <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import meshio
import numpy as np
from plyfile import PlyData, PlyElement

print("meshio", version("meshio"), "plyfile", version("plyfile"))

# A square of two triangles with a colour and a class number at each corner.
corners = np.zeros(4, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("label", "u1")])
corners["x"], corners["y"] = [0, 1, 1, 0], [0, 0, 1, 1]
corners["red"], corners["label"] = [127, 128, 200, 255], [1, 40, 150, 199]
faces = np.zeros(2, [("vertex_indices", "i4", (3,))])
faces["vertex_indices"] = [[0, 1, 2], [0, 2, 3]]
elements = [PlyElement.describe(corners, "vertex"), PlyElement.describe(faces, "face")]
PlyData(elements, text=True).write("text.ply")
PlyData(elements, byte_order="<").write("binary.ply")
# The same bytes under the other spelling of the same type.
Path("spelt_uint8.ply").write_bytes(Path("binary.ply").read_bytes().replace(b"property uchar", b"property uint8"))


def properties(name):
    return [line for line in PlyData.read(name).header.splitlines() if line.endswith((" red", " label"))]


seen = {}
print("header of text.ply and binary.ply:", properties("text.ply"), properties("text.ply") == properties("binary.ply"))
for name in ("text.ply", "binary.ply", "spelt_uint8.ply"):
    data = meshio.read(name).point_data
    seen[name] = (data["red"].tolist(), data["label"].tolist())
    print(f"meshio {name}: red {data['red'].dtype} {seen[name][0]}, label {seen[name][1]}")
print("plyfile binary.ply: red", PlyData.read("binary.ply")["vertex"]["red"].tolist())
meshio.read("binary.ply").write("again.ply")
again = PlyData.read("again.ply")["vertex"]["red"]
print("plyfile, after meshio wrote it again: red", again.dtype, again.tolist())

right = ([127, 128, 200, 255], [1, 40, 150, 199])
wrong = ([127, -128, -56, -1], [1, 40, -106, -57])
if seen != {"text.ply": right, "binary.ply": wrong, "spelt_uint8.ply": right} or again.tolist() != wrong[0]:
    sys.exit("another behaviour than described")
print("as described: uchar is a signed byte in binary files")
PY
env/bin/python read.py
