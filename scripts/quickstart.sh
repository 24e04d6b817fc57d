#!/usr/bin/env bash
# The main job from nothing: environment, synthetic CT study, training, masks of unseen cases, Dice, pictures.
# Under 10 minutes on 2 CPU cores; a second run reuses environment, data and weights.
#   bash scripts/quickstart.sh [FOLDER] [options of `medseg3d demo`]
set -euo pipefail
caller=$PWD
source "$(dirname "$0")/environment.sh" ""
command=$PWD/.venv/bin/medseg3d
cd "$caller"
exec "$command" demo "$@"
