#!/usr/bin/env bash
# The main job from nothing, DICOM to the end: environment, synthetic CT series with contours, conversion, training,
# masks of unseen series as NIfTI, SEG and RTSTRUCT, Dice, a report, pictures.
# Under 10 minutes on 2 CPU cores; a second run reuses environment, data and weights.
#   bash scripts/quickstart.sh [FOLDER] [options of `medseg3d demo`]
set -euo pipefail
caller=$PWD
source "$(dirname "$0")/environment.sh" ""
command=$PWD/.venv/bin/medseg3d
cd "$caller"
exec "$command" demo "$@"
