# Sourced by the scripts beside it: a Python that is new enough as $python, and Debian packages where they may be installed.
python=""
for candidate in python3.12 python3.13 python3 python; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "$python" ] || { echo "Python 3.12 or newer is needed."; exit 1; }

install_debian() { # packages...: install them where this user may; otherwise fail
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

fresh_environment() { # folder: make a virtual environment and enter it
  rm -rf "$1"
  "$python" -m venv "$1"
  # shellcheck disable=SC1091
  source "$1/bin/activate"
  export OMP_NUM_THREADS=1 PIP_PROGRESS_BAR=off
}
