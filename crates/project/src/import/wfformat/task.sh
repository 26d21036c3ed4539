#!/bin/sh
# Stands in for a task of a recorded workflow: reads its inputs to the end, takes as long as it did
# then (scaled), and writes the files that it wrote (scaled), each with content of its own.
#
# usage: task.sh SECONDS INPUTS [NAME=BYTES …]
set -eu

seconds=$1 expected=$2
shift 2

found=0
for input in "$WINDLASS_INPUTS"/*; do
    [ -e "$input" ] || continue
    [ -s "$input" ] || { echo "input is empty: ${input##*/}" >&2; exit 1; }
    cat "$input" >/dev/null
    found=$((found + 1))
done
[ "$found" -eq "$expected" ] || { echo "found $found inputs of $expected" >&2; exit 1; }

[ "$seconds" = 0 ] || sleep "$seconds"

for output in "$@"; do
    name=${output%%=*} bytes=${output#*=}
    yes "$TASK_ID $name" 2>/dev/null | head -c "$bytes" >"$WINDLASS_OUTPUTS/$name"
done
