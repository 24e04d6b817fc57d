#!/usr/bin/env bash
# The tests, in the project's own environment. Further arguments go to pytest:
#   bash scripts/test.sh [-m "not slow"] [-k segment] …
# Tests on real data read the folder that MEDSEG3D_DATA names and are skipped without it.
set -euo pipefail
arguments=("$@")
source "$(dirname "$0")/environment.sh" test
exec .venv/bin/python -m pytest "${arguments[@]+"${arguments[@]}"}"
