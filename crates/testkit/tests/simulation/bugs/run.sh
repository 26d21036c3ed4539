#!/usr/bin/env bash
# Seeds each bug of this folder into a copy of the sources and shows that the simulation finds it.
#
#   crates/testkit/tests/simulation/bugs/run.sh [PATCH…]
#
# Prints after how many histories, and the seed that plays one again. Fails if a bug isn't found
# within WINDLASS_HISTORIES histories (100,000), or if a patch no longer applies.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here" && git rev-parse --show-toplevel)"
scratch="${WINDLASS_SCRATCH:-$(mktemp -d)}"
[[ -n "${WINDLASS_SCRATCH:-}" ]] || trap 'rm -rf "$scratch"' EXIT
export WINDLASS_HISTORIES="${WINDLASS_HISTORIES:-100000}" CARGO_TARGET_DIR="$scratch/target" RUST_BACKTRACE=0
# Not optimised: what takes time here is to build each bug, not to find it.
export CARGO_PROFILE_DEV_DEBUG=false

patches=("$@")
((${#patches[@]})) || patches=("$here"/*.patch)
missed=0
rm -rf "$scratch/sources"
mkdir -p "$scratch/sources"
# The files as they are in the working tree now, without what git ignores.
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch/sources")
cd "$scratch/sources"
for patch in "${patches[@]}"; do
    name="$(basename "$patch" .patch)"
    patch --quiet -p1 <"$patch"
    if ! cargo test --quiet --locked -p windlass-testkit --test simulation --no-run >"$scratch/build.log" 2>&1; then
        echo "$name: does not build"
        tail -n 20 "$scratch/build.log"
        missed=1
        patch --quiet -p1 -R <"$patch"
        continue
    fi
    found=1
    if timeout 600 cargo test --quiet --locked -p windlass-testkit --test simulation every_history >"$scratch/found.log" 2>&1; then
        found=0
        printf '%-40s NOT FOUND in %s histories\n' "$name" "$WINDLASS_HISTORIES"
        missed=1
    fi
    patch --quiet -p1 -R <"$patch"
    ((found)) || continue
    after="$(sed -n 's/^broken after \([0-9]*\) histories.*/\1/p' "$scratch/found.log" | head -n 1)"
    seed="$(sed -n 's/^seed: //p' "$scratch/found.log" | head -n 1)"
    what="$(sed -n 's/^broken: //p' "$scratch/found.log" | head -n 1 | cut -c1-110)"
    printf '%-40s after %6s histories, seed %20s: %s\n' "$name" "${after:-?}" "${seed:-?}" "$what"
    [[ -n "$seed" ]] || missed=1
done
exit "$missed"
