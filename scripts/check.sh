#!/usr/bin/env bash
# Lint, format and types, as CI runs them.
set -euo pipefail
source "$(dirname "$0")/environment.sh" dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
