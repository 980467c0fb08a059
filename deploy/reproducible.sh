#!/usr/bin/env bash
# Builds the image of this commit in another folder, with another cargo home and nothing kept, and
# compares digest and SBOM with those in DIR.
#
# Usage: reproducible.sh DIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
first=$(realpath "${1:?usage: reproducible.sh DIR}")
created=$(jq -r '.metadata.timestamp' "$first/idlewild.cdx.json")
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT

mkdir -p "$elsewhere/some where/sources" "$elsewhere/cargo"
git ls-files -z | tar --null --files-from=- -c | tar -x -C "$elsewhere/some where/sources"
# What was downloaded need not be again; its path is another one all the same.
ln -s "${CARGO_HOME:-$HOME/.cargo}/registry" "$elsewhere/cargo/registry"

SOURCE_DATE_EPOCH=$(date -d "$created" +%s)
REVISION=$(git rev-parse HEAD)$(git diff --quiet HEAD || echo -dirty)
export SOURCE_DATE_EPOCH REVISION CARGO_HOME=$elsewhere/cargo
unset CARGO_TARGET_DIR
"$elsewhere/some where/sources/deploy/image.sh" "$elsewhere/image"
for file in digest idlewild.cdx.json idlewild.tar; do
  cmp "$first/$file" "$elsewhere/image/$file"
done
echo "the same: $(<"$first/digest")"
