#!/usr/bin/env bash
# Builds the programs of a real Kubernetes control plane from their Go modules into DIR.
#
# Usage: build.sh DIR [helm4]    with helm4 what only tests need is built too
# What DIR or $KUBEBUILDER_ASSETS already holds is taken as it is. A binary is rebuilt when go.mod,
# which pins all versions, or this script changes: its stamp is their checksum. All are of one module,
# so that what they share is compiled once; it raises some libraries above what each was released with.
set -euo pipefail
out=${1:?usage: build.sh DIR [helm4]}
mkdir -p "$out"
out=$(cd "$out" && pwd) # before the next line: DIR is relative to the caller
cd "$(dirname "${BASH_SOURCE[0]}")"

version=$(grep -om1 'k8s.io/kubernetes v[0-9.]*' go.mod | cut -d' ' -f2)
variables=k8s.io/component-base/version
flags="-s -w -X $variables.gitVersion=$version -X $variables.gitMajor=1 -X $variables.gitMinor=$(cut -d. -f2 <<<"$version")"
stamp=$(cat go.mod build.sh | sha256sum | cut -d' ' -f1)

# missing BINARY: whether it has to be built.
missing() {
  if [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$1 ]]; then
    ln -sf "$KUBEBUILDER_ASSETS/$1" "$out/$1"
    return 1
  fi
  [[ ! -x $out/$1 || $(cat "$out/.$1.stamp" 2>/dev/null) != "$stamp" ]]
}

# build BINARY:PACKAGE...: what is missing of them, side by side.
build() {
  local packages=() binaries=() item made began=$SECONDS
  for item; do
    if missing "${item%%:*}"; then
      binaries+=("${item%%:*}")
      packages+=("${item#*:}")
    fi
  done
  if ! ((${#packages[@]})); then return; fi
  echo "building ${binaries[*]}"
  made=$(mktemp -d "$out/.new.XXXXXX")
  trap 'rm -rf "$made"' RETURN
  # Nobody debugs these: without DWARF, and with a lazier collector in the compiler, it takes an
  # eighth less.
  GOGC=400 CGO_ENABLED=0 go build -trimpath -gcflags=all=-dwarf=false -ldflags "$flags" -o "$made/" "${packages[@]}"
  if [[ -e $made/server ]]; then mv "$made/server" "$made/etcd"; fi
  for item in "${binaries[@]}"; do
    mv "$made/${item%4}" "$out/$item"
    echo "$stamp" >"$out/.$item.stamp"
  done
  echo "built ${binaries[*]} in $((SECONDS - began)) s"
}

programs=(etcd:go.etcd.io/etcd/server/v3)
for binary in kube-apiserver kube-scheduler kube-controller-manager kubectl; do
  programs+=("$binary:k8s.io/kubernetes/cmd/$binary")
done
build "${programs[@]}" kwok:sigs.k8s.io/kwok/cmd/kwok helm:helm.sh/helm/v3/cmd/helm
if [[ ${2:-} == helm4 ]]; then
  build helm4:helm.sh/helm/v4/cmd/helm # apart: it builds a binary named helm too
fi
