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

# The middle one of some numbers.
middle() {
    sort -n | sed -n "$(((starts + 1) / 2))p"
}

# The medians of the starts, in milliseconds: by the clock, and of processor time, which others on the machine do not change as much.
median() {
    TIMEFORMAT='%R %U %S'
    for _ in $(seq $starts); do
        { time app "$@"; } 2>&1 | awk '{ print int(1000 * $1), int(1000 * ($2 + $3)) }'
    done >"$work/times"
    echo "$(cut -d ' ' -f 1 "$work/times" | middle) ms, $(cut -d ' ' -f 2 "$work/times" | middle) ms of processor time"
}

told() {
    echo
    echo "== $1"
    "$bytekeep" explain --color never --python "$2/bin/python" --user 65534 "$2/lib" || true
    echo "import sympy: $(median "$2/bin/python" -c 'import sympy') (medians of $starts starts)"
}

told "as pip left it" "$work/venv"

cp -r --no-preserve=timestamps "$work/venv" "$work/image"
told "in the image: the copy has changed all times" "$work/image"

"$bytekeep" compile --quiet --python "$work/venv/bin/python" --invalidation-mode unchecked-hash "$work/venv/lib"
rm -r "$work/image"
cp -r --no-preserve=timestamps "$work/venv" "$work/image"
told "in the image, after bytekeep compile --invalidation-mode unchecked-hash in the build" "$work/image"
