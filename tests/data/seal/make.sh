#!/bin/sh
# Makes the golden files of the seal without a line of bytekeep's code: b3sum, xxd and printf.
#
# Usage: make.sh DIRECTORY
#
# The files are kept for ever. A new version of the format gets new files beside them (v2-...); the old ones are never made anew, and
# the script of the old ones is never changed. man/bytekeep-seal.5 says what each field is.
set -eu
out=$1
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT

# A number as so many little-endian bytes: le WIDTH NUMBER
le() {
    printf "%0$(($1 * 2))x" "$2" | fold -w 2 | sed '1!G;h;$!d' | tr -d '\n' | xxd -r -p
}
# The 32 bytes of a digest of standard input.
digest() {
    b3sum --no-names | xxd -r -p
}
# The first 8 bytes of the digest of: tag NUL level NUL variant.
label() {
    printf '%s\000%s\000%s' "$1" "$2" "$3" | digest | head -c 8
}
# Writes $out/NAME: seal NAME VERSION FLAGS KEY_ID LENGTH [b3sum options]
seal() {
    name=$1 version=$2 flags=$3 key=$4 length=$5
    shift 5
    { le 8 "$length"; digest < "$part/source"; } > "$part/front"
    { le 2 "$version"; le 2 "$flags"; le 4 "$key"; cat "$part/label"; printf '\213BKSEAL\n'; } > "$part/back"
    cat "$part/payload" "$part/front" "$part/back" > "$part/hashed"
    if [ $# -gt 0 ]; then
        b3sum --no-names "$@" "$part/hashed" < "$part/keyfile" | xxd -r -p > "$part/proof"
    else
        digest < "$part/hashed" > "$part/proof"
    fi
    cat "$part/payload" "$part/front" "$part/proof" "$part/back" > "$out/$name"
}
# Changes one bit: flip FROM TO OFFSET (the lowest bit of the byte at OFFSET)
flip() {
    byte=$(xxd -s "$3" -l 1 -p "$out/$1")
    head -c "$3" "$out/$1" > "$out/$2"
    printf '%02x' $((0x$byte ^ 1)) | xxd -r -p >> "$out/$2"
    tail -c +$(($3 + 2)) "$out/$1" >> "$out/$2"
}

# A source of 12 bytes, and a payload of 17: CPython 3.13's header for it (mtime 0) and a marshalled None.
printf 'print("hi")\n' > "$part/source"
printf '\363\015\015\012\000\000\000\000\000\000\000\000\014\000\000\000N' > "$part/payload"
printf '0123456789abcdefghijklmnopqrstuv' > "$part/keyfile"
label cpython-313 0 '' > "$part/label"

# Whole ones.
seal v1-sealed.bin 1 0 0 17
seal v1-adopted.bin 1 2 0 17
seal v1-keyed.bin 1 1 7 17 --keyed
label cpython-313 2 t > "$part/label"
seal v1-opt-2-free-threaded.bin 1 0 0 17
label cpython-313 0 '' > "$part/label"
# Newer than version 1, and not damaged.
seal v2-version.bin 2 0 0 17
seal v1-unknown-flag.bin 1 32768 0 17
# Wrong, though the proof fits: a key id without the flag, lengths that are not the payload's.
seal v1-key-without-flag.bin 1 0 7 17
seal v1-says-longer.bin 1 0 0 18
seal v1-says-shorter.bin 1 0 0 16
# Cut: by one byte, in the middle of the seal, by the whole seal, in the payload; and a piece cut out of the payload.
head -c 112 "$out/v1-sealed.bin" > "$out/v1-cut-1.bin"
head -c 65 "$out/v1-sealed.bin" > "$out/v1-cut-48.bin"
head -c 17 "$out/v1-sealed.bin" > "$out/v1-cut-96.bin"
head -c 16 "$out/v1-sealed.bin" > "$out/v1-cut-97.bin"
{ head -c 8 "$out/v1-sealed.bin"; tail -c 97 "$out/v1-sealed.bin"; } > "$out/v1-piece-missing.bin"
# One bit flipped: in the payload, and in each field of the seal that the payload's length and the version do not already give away.
flip v1-sealed.bin v1-flipped-payload.bin 8
flip v1-sealed.bin v1-flipped-length.bin 17
flip v1-sealed.bin v1-flipped-source.bin 25
flip v1-sealed.bin v1-flipped-proof.bin 57
flip v1-sealed.bin v1-flipped-label.bin 97
flip v1-sealed.bin v1-flipped-magic.bin 105
# A page of zeros over the end of the payload.
{ head -c 12 "$out/v1-sealed.bin"; printf '\000\000\000\000\000'; tail -c 96 "$out/v1-sealed.bin"; } > "$out/v1-zeroed.bin"
