#!/usr/bin/env bash
# A whole study on real PET/CT, from DICOM to the report: conversion, folds by patient, training with and without PET,
# masks of held-out patients as NIfTI, SEG and RTSTRUCT, scores, what PET adds, a picture.
# Needs the folder ct_pet_mr_sarcoma below MEDSEG3D_DATA. Run again, it goes on where it was.
#   MEDSEG3D_DATA=/path/to/data bash scripts/sarcoma_study.sh [--output FOLDER] [--quick]
set -euo pipefail
caller=$PWD
data=${MEDSEG3D_DATA:-MEDSEG3D_DATA}/ct_pet_mr_sarcoma
if [ ! -d "$data" ]; then
  echo "error: no folder $data. Set MEDSEG3D_DATA to the folder that holds ct_pet_mr_sarcoma/." >&2
  exit 2
fi
source "$(dirname "$0")/environment.sh" ""
python=$PWD/.venv/bin/python
script=$PWD/scripts/sarcoma_study.py
cd "$caller"
exec "$python" "$script" "$data" "$@"
