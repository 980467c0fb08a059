#!/usr/bin/env bash
# Builds the container image without a daemon: one static binary in an otherwise empty root.
#
# Usage: image.sh [DIR]      (default: target/image)
#   DIR/oci                 OCI layout, as skopeo and crane read it
#   DIR/idlewild.tar        the same in one file: `docker load`, `podman load`, `ctr images import`
#   DIR/idlewild.cdx.json   SBOM: what is in the binary
#   DIR/digest              digest of the image's manifest
#
# A commit gives the same digest in any folder, for any user and cargo home, as long as compiler and
# C library are the same; the SBOM names both. What git says of the commit is taken from
# SOURCE_DATE_EPOCH and REVISION where they are set, so that an export without .git can be built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-target/image}
machine=$(uname -m)
target=$machine-unknown-linux-gnu
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
: "${REVISION:=$(git rev-parse HEAD)$(git diff --quiet HEAD || echo -dirty)}"
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C

metadata=$(cargo metadata --locked --no-deps --format-version 1)
version=$(jq -r '.packages[0].version' <<<"$metadata")
target_directory=$(jq -r .target_directory <<<"$metadata")
binary=$target_directory/$target/release/idlewild

# A static binary that holds no path of the machine that built it.
build() {
  local home=${CARGO_HOME:-$HOME/.cargo} sysroot commit source
  sysroot=$(rustc --print sysroot)
  commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
  cargo fetch --locked --quiet --target "$target" # so that the folders of the sources are there
  # The last one that fits counts.
  local flags=(
    -Ctarget-feature=+crt-static
    # A page of relocations instead of 1.3 MB, which every process would read at its start.
    -Clink-arg=-Wl,-z,pack-relative-relocs
    "--remap-path-prefix=$home=/cargo"
    "--remap-path-prefix=$PWD=/idlewild"
    "--remap-path-prefix=$target_directory=/idlewild/target"
    # Where the standard library's sources are installed, its paths lead there.
    "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit"
  )
  for source in "$home"/registry/src/*; do # named after the registry or its mirror
    flags+=("--remap-path-prefix=$source=/crates")
  done
  env -u CFLAGS -u RUSTC_WORKSPACE_WRAPPER CARGO_INCREMENTAL=0 \
    CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; printf %s "${flags[*]}")" \
    cargo build --locked --release --target "$target" --bin idlewild
}

# pack ARCHIVE DIR FILES...: a tar of the files' names and contents, whoever made them and when.
pack() {
  tar --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX -cf "$1" -C "$2" "${@:3}"
}

# blob FILE TYPE: moves the file among the blobs and prints its descriptor.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$work/oci/blobs/sha256/$digest"
  jq -cn --arg digest "sha256:$digest" --arg type "application/vnd.oci.image.$2" --argjson size "$size" \
    '{mediaType: $type, digest: $digest, size: $size}'
}

config() {
  jq -cn --arg layer "$1" --arg version "$version" --arg revision "$REVISION" \
    --arg architecture "${machine/x86_64/amd64}" --arg created "$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)" \
    '{
      architecture: ($architecture | sub("aarch64"; "arm64")),
      os: "linux",
      created: $created,
      config: {
        User: "65532:65532",
        ExposedPorts: {"8080/tcp": {}},
        Entrypoint: ["/idlewild"],
        WorkingDir: "/",
        Labels: {
          "org.opencontainers.image.title": "idlewild",
          "org.opencontainers.image.description": "Federates idle GPU clusters, owners first: hub and agent in one binary.",
          "org.opencontainers.image.version": $version,
          "org.opencontainers.image.revision": $revision,
          "org.opencontainers.image.created": $created,
          "org.opencontainers.image.licenses": "Apache-2.0"
        }
      },
      rootfs: {type: "layers", diff_ids: [$layer]},
      history: [{created: $created, created_by: "deploy/image.sh"}]
    }'
}

build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root" "$work/oci/blobs/sha256"
install -m 0755 "$binary" "$work/root/idlewild"
install -m 0644 LICENSE "$work/root/LICENSE"
pack "$work/layer" "$work/root" LICENSE idlewild
config "sha256:$(sha256sum "$work/layer" | cut -d' ' -f1)" >"$work/config"
unpacked=$(stat -c %s "$work/layer")
gzip -9n "$work/layer"
layer=$(blob "$work/layer.gz" layer.v1.tar+gzip)
config=$(blob "$work/config" config.v1+json)
jq -cn --argjson config "$config" --argjson layer "$layer" \
  '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: [$layer]}' \
  >"$work/manifest"
manifest=$(blob "$work/manifest" manifest.v1+json)
jq -cn --argjson manifest "$manifest" --arg version "$version" \
  '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [
     $manifest + {annotations: {"org.opencontainers.image.ref.name": $version,
                                "io.containerd.image.name": "registry.example.org/idlewild:\($version)"}}]}' \
  >"$work/oci/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
# What `docker load` looks for before version 25.
path() { jq -r '"blobs/" + (.digest | sub(":"; "/"))' <<<"$1"; }
jq -cn --arg config "$(path "$config")" --arg layer "$(path "$layer")" --arg version "$version" \
  '[{Config: $config, RepoTags: ["registry.example.org/idlewild:\($version)"], Layers: [$layer]}]' \
  >"$work/oci/manifest.json"
pack "$work/idlewild.tar" "$work/oci" blobs index.json manifest.json oci-layout
deploy/sbom.sh "$binary" "$target" >"$work/idlewild.cdx.json"
jq -r .digest <<<"$manifest" >"$work/digest"

rm -rf "$out"
mkdir -p "$out"
mv "$work"/{oci,idlewild.tar,idlewild.cdx.json,digest} "$out"
echo "$out: $(<"$out/digest"), $(jq .size <<<"$layer") bytes compressed, $unpacked bytes unpacked"
