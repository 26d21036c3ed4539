#!/usr/bin/env bash
# Fuzzes targets with libFuzzer: `bash fuzz/run.sh SECONDS [TARGET…]`, every target if none is named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds="${1:?how many seconds for each target?}"
shift
if ((!$#)); then
    mapfile -t all < <(cargo +nightly fuzz list)
    set -- "${all[@]}"
fi
# A backtrace takes longer than most inputs may.
export RUST_BACKTRACE=0
failed=()
for target in "$@"; do
    words=()
    [[ ! -f "fuzz/dictionaries/$target" ]] || words=("-dict=fuzz/dictionaries/$target")
    mkdir -p "fuzz/corpus/$target"
    # The limits are rules, too: no input may take longer or need more.
    cargo +nightly fuzz run "$target" -- "-max_total_time=$seconds" -timeout=5 -rss_limit_mb=1024 \
        -print_final_stats=1 "${words[@]}" || failed+=("$target")
done
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
