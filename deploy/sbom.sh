#!/usr/bin/env bash
# Prints what is in BINARY, built for TARGET from this folder, as a CycloneDX document (JSON, 1.5).
#
# Usage: sbom.sh BINARY TARGET
# Listed are the crates of the normal dependency graph with the checksums of the lock file (those that
# only run in the compiler have the scope "excluded"), the standard library, and the C archives that
# are linked in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
binary=${1:?usage: sbom.sh BINARY TARGET}
target=${2:?usage: sbom.sh BINARY TARGET}
export LC_ALL=C

# crates EDGES: "name version", one a line.
crates() {
  cargo tree --locked --edges "$1" --target "$target" --prefix none --format '{p}' |
    awk '{ print $1, substr($2, 2) }' | sort -u
}

# "name version checksum" of each package that came from a registry.
checksums() {
  awk -F'"' '/^name = /{n=$2} /^version = /{v=$2} /^checksum = /{print n, v, $2}' Cargo.lock
}

# The archives of C that a static binary holds, as JSON lines; by their Debian package if they have one.
archives() {
  local archive licence path package
  while read -r archive licence; do
    path=$(realpath "$(cc -print-file-name="$archive")")
    package=$(dpkg-query --search "$path" 2>/dev/null | cut -d: -f1) || package=
    jq -cn --arg name "${package:-$archive}" --arg file "$archive" --arg licence "$licence" \
      --arg hash "$(sha256sum "$path" | cut -d' ' -f1)" \
      --arg version "$([[ -z $package ]] || dpkg-query -Wf '${Version}' "$package")" '
      {type: "library", name: $name, "bom-ref": $file, scope: "required",
       licenses: [{expression: $licence}],
       properties: [{name: "idlewild:archive", value: $file}, {name: "idlewild:archive-sha256", value: $hash}]}
      + if $version == "" then {} else
          {version: $version, purl: "pkg:deb/debian/\($name)@\($version | @uri)"} end'
  done <<'EOT'
libc.a LGPL-2.1-or-later
libgcc_eh.a GPL-3.0-or-later WITH GCC-exception-3.1
EOT
}

jq -n --slurpfile metadata <(cargo metadata --locked --format-version 1 --filter-platform "$target") \
  --rawfile all <(crates normal) --rawfile linked <(crates normal,no-proc-macro) \
  --rawfile checksums <(checksums) --slurpfile archives <(archives) \
  --arg rust "$(rustc -vV | sed -n 's/^release: //p')" --arg target "$target" \
  --arg hash "$(sha256sum "$binary" | cut -d' ' -f1)" \
  --arg time "$(date -u -d "@${SOURCE_DATE_EPOCH:?set it to the time of the commit}" +%FT%TZ)" '
def purl: "pkg:cargo/\(.name)@\(.version | @uri)";
($all | split("\n") | map(select(. != ""))) as $all
| ($linked | split("\n")) as $linked
| ($checksums | split("\n") | map(split(" ") | {key: "\(.[0]) \(.[1])", value: .[2]}) | from_entries) as $sums
| $metadata[0] as $cargo
| [$cargo.packages[] | . + {key: "\(.name) \(.version)"} | select(.key as $key | $all | index($key))] as $packages
| ($packages | map({key: .id, value: purl}) | from_entries) as $refs
| ($packages[] | select(.id == $cargo.resolve.root)) as $root
| if ($packages | length) != ($all | length) then error("cargo tree and cargo metadata disagree") else . end
| {
    bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
    metadata: {
      timestamp: $time,
      component: {type: "application", name: $root.name, version: $root.version, "bom-ref": ($root | purl),
        purl: ($root | purl), licenses: [{expression: $root.license}],
        hashes: [{alg: "SHA-256", content: $hash}], properties: [{name: "idlewild:target", value: $target}]}
    },
    components: ([$packages[] | select(.id != $root.id) | {
        type: "library", name, version, "bom-ref": purl, purl: purl,
        scope: (if .key as $key | $linked | index($key) then "required" else "excluded" end)}
        + if .license then {licenses: [{expression: (.license | gsub(" */ *"; " OR "))}]} else {} end
        + if $sums[.key] then {hashes: [{alg: "SHA-256", content: $sums[.key]}]} else {} end
        + if .description then {description: (.description | gsub("\\s+"; " "))} else {} end]
      + [{type: "library", name: "rust-std", version: $rust, "bom-ref": "rust-std", scope: "required",
          purl: "pkg:generic/rust-std@\($rust)", licenses: [{expression: "MIT OR Apache-2.0"}]}]
      + $archives | sort_by(.["bom-ref"])),
    dependencies: [$cargo.resolve.nodes[] | select($refs[.id]) | {
        ref: $refs[.id],
        dependsOn: ([.deps[] | select(any(.dep_kinds[]; .kind == null)) | $refs[.pkg] | select(.)]
          + if .id == $root.id then ["rust-std", $archives[]["bom-ref"]] else [] end | unique)
      }] | sort_by(.ref)
  }'
