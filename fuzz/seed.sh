#!/usr/bin/env bash
# Fills fuzz/corpus with seeds: what this repository has for each target, and WfFormat instances
# below the folders that are named.
#
#     bash fuzz/seed.sh [--into FOLDER] [FOLDER…]
#
# A seed is named by its content, so running it again adds nothing twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

into=fuzz/corpus
if [[ "${1:-}" == --into ]]; then
    into="$2"
    shift 2
fi

# Copies files into the corpus of a target.
add() {
    local target="$1" file
    shift
    mkdir -p "$into/$target"
    for file in "$@"; do
        cp "$file" "$into/$target/$(sha1sum <"$file" | cut -c1-16)"
    done
}

projects=(examples crates/project/tests docs)
mapfile -t pipelines < <(find "${projects[@]}" -path '*/pipelines/*' -type f -size -256k)
mapfile -t environments < <(find "${projects[@]}" -path '*/environments/*' -type f)
mapfile -t templates < <(find "${projects[@]}" -path '*/templates/*' -type f)
mapfile -t roots < <(find "${projects[@]}" -name windlass.yaml)
add pipeline_file "${pipelines[@]}" fuzz/src/project/pipeline.yaml
add environment_file "${environments[@]}" fuzz/src/project/dev.yaml
add template_file "${templates[@]}" fuzz/src/project/template.yaml
add project_file "${roots[@]}"

# A line is a seed of the small languages.
lines() {
    local target="$1" line
    mkdir -p "$into/$target"
    while IFS= read -r line; do
        printf '%s' "$line" >"$into/$target/$(sha1sum <<<"$line" | cut -c1-16)"
    done
}
for file in fuzz/seeds/*.lines; do
    lines "$(basename "$file" .lines)" <"$file"
done

# What was found before, and seeds that are no lines.
for folder in fuzz/seeds/*/; do
    add "$(basename "$folder")" "$folder"*
done

if (($#)); then
    mapfile -t instances < <(find "$@" -name '*.json' -size -256k)
    add wfformat "${instances[@]}"
fi
find "$into" -type f | wc -l
