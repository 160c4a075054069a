#!/usr/bin/env bash
# Makes .venv and installs requirements.txt and the library into it. Called by `make env`; done again only when those change.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" - <<'PY' || exit 1
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Python 3.11 to 3.13 is needed, found {sys.version.split()[0]}: run `make PYTHON=python3.12 ...`")
PY

echo "Setting up .venv (once; torch and what the book needs: about 6 GB on Linux)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null  # made by another tool
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
if [ -n "${TORCH_INDEX:-}" ]; then
    # torch and torchvision must come from one place: a published torchvision does not import beside another torch.
    .venv/bin/uv pip install --python .venv/bin/python --index-url "$TORCH_INDEX" \
        $(grep -E '^(torch|torchvision)==' requirements.txt)
fi
.venv/bin/uv pip install --python .venv/bin/python -r requirements.txt
.venv/bin/uv pip install --python .venv/bin/python --no-deps -e .
touch .venv/.installed
