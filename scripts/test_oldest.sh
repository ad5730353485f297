#!/usr/bin/env bash
# Runs a quick part of the tests on the lowest versions that pyproject.toml allows.
# uv reads them from there ("lowest-direct") and installs them into a separate environment.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV_OLDEST:-.venv-oldest}
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3.11}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv || exit 3
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct \
    -r pyproject.toml --extra dev --extra demo || exit 3  # 3: these versions cannot be installed here
# Old libraries beside new versions of their dependencies give many deprecation warnings.
PYTHONPATH=src "$venv/bin/python" -m pytest -q -p no:cacheprovider -o addopts='--import-mode=importlib' \
    -m 'not slow' -W ignore::DeprecationWarning tests/test_torch.py tests/anatomy tests/groups/test_rules.py \
    tests/laws/test_1_exact_cover.py tests/laws/test_4_freezing_never_rebuilds.py \
    tests/training/test_phases.py tests/training/test_finder.py "$@"
