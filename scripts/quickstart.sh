#!/usr/bin/env bash
# The main job from nothing: environment, synthetic CT study, training, masks of unseen cases, Dice, pictures.
# Under 10 minutes on 2 CPU cores; a second run reuses environment, data and weights.
#   bash scripts/quickstart.sh [FOLDER] [options of `medseg3d demo`]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec .venv/bin/medseg3d demo "$@"
