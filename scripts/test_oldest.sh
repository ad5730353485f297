#!/usr/bin/env bash
# A quick, representative part of the tests on the lowest versions that pyproject.toml promises.
# uv reads them from there ("lowest-direct"); they go into an environment of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV_OLDEST:-.venv-oldest}
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3.11}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct \
    -r pyproject.toml --extra dev --extra demo
# An old library beside a new one of its own dependencies says much that is deprecated.
PYTHONPATH=src "$venv/bin/python" -m pytest -q -p no:cacheprovider -o addopts='--import-mode=importlib' \
    -m 'not slow' -W ignore::DeprecationWarning tests/test_torch.py tests/anatomy tests/groups/test_rules.py \
    tests/laws/test_1_exact_cover.py tests/laws/test_4_freezing_never_rebuilds.py \
    tests/training/test_fits.py tests/training/test_finder.py "$@"
