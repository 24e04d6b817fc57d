# Sourced by the other scripts: makes .venv once and installs what is missing; says so when there is nothing to do.
# usage: source scripts/environment.sh EXTRAS        for example test; "" for none
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  echo "error: Python 3.11, 3.12 or 3.13 is needed. Install one, or name it: PYTHON=/path/to/python3.11 bash $0" >&2
  return 1
}

explain_failure() {
  local free_gb
  free_gb=$(df -Pk . | awk 'NR == 2 { printf "%.1f", $4 / 1e6 }')
  echo "error: the installation failed; pip's own message stands above. $PWD/.venv needs about 8 GB, most of it PyTorch;" \
    "$free_gb GB are free there now. Once the cause is gone, run the same command again: it goes on from here." >&2
}

install_environment() {
  local extras="$1" python stamp wanted
  stamp=".venv/installed-${extras:-core}"
  wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c 'import medseg3d' 2>/dev/null; then
    echo "Reusing the environment in .venv"
    return
  fi
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || return 1
    echo "Making the environment in .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || return 1
  fi
  echo "Installing medseg3d${extras:+[$extras]} and what it needs (PyTorch is large: some minutes)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable ".${extras:+[$extras]}" || { explain_failure; return 1; }
  echo "$wanted" >"$stamp"
}

install_environment "$1" || exit 1
