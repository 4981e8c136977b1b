#!/usr/bin/env bash
# What a slow container costs and what bytekeep saves: how long `import sympy` takes before and after.
#
#   stress/slow_start.sh [BYTEKEEP [PYTHON]]
#
# An image in small: an environment is filled by pip, then copied without its times, as the layers of many images are, and its program is
# run by a user who cannot write to it. Needs root (to be another user), setpriv, and pip with its index.
set -euo pipefail

bytekeep=$(command -v "${1:-target/release/bytekeep}")
bytekeep=$(realpath "$bytekeep")
python=${2:-/usr/bin/python3}
# Whoever asks has perhaps set them; the container has not.
unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX
starts=15

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check sympy==1.13.3

app() {
    setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
}

# The median of the starts, in milliseconds.
median() {
    for _ in $(seq $starts); do
        begin=$(date +%s%N)
        app "$@"
        echo $((($(date +%s%N) - begin) / 1000000))
    done | sort -n | sed -n "$(((starts + 1) / 2))p"
}

told() {
    echo
    echo "== $1"
    "$bytekeep" explain --color never --python "$2/bin/python" --user 65534 "$2/lib" || true
    echo "import sympy: $(median "$2/bin/python" -c 'import sympy') ms (median of $starts starts)"
}

told "as pip left it" "$work/venv"

cp -r --no-preserve=timestamps "$work/venv" "$work/image"
told "in the image: the copy has changed all times" "$work/image"

"$bytekeep" compile --quiet --python "$work/venv/bin/python" --invalidation-mode unchecked-hash "$work/venv/lib"
rm -r "$work/image"
cp -r --no-preserve=timestamps "$work/venv" "$work/image"
told "in the image, after bytekeep compile --invalidation-mode unchecked-hash in the build" "$work/image"
