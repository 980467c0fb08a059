#!/usr/bin/env bash
# Builds the programs of a real Kubernetes control plane from their Go modules into DIR.
#
# Usage: build.sh DIR [helm4]    with helm4 what only tests need is built too
# What DIR or $KUBEBUILDER_ASSETS already holds is taken as it is. A binary is rebuilt when the
# module that pins its version changes: its stamp is the checksum of that go.mod and of the flags.
set -euo pipefail
out=${1:?usage: build.sh DIR [helm4]}
mkdir -p "$out"
out=$(cd "$out" && pwd) # before the next line: DIR is relative to the caller
cd "$(dirname "${BASH_SOURCE[0]}")"

kubernetes_version=$(grep -om1 'k8s.io/kubernetes v[0-9.]*' kubernetes/go.mod | cut -d' ' -f2)
minor=$(cut -d. -f2 <<<"$kubernetes_version")
version_package=k8s.io/component-base/version
kubernetes_flags="-X $version_package.gitVersion=$kubernetes_version -X $version_package.gitMajor=1 -X $version_package.gitMinor=$minor"

# build MODULE PACKAGE BINARY [LDFLAGS]
build() {
  local module=$1 package=$2 binary=$3 flags=${4:-} stamp began
  stamp=$(printf %s "$flags" | cat - "$module/go.mod" | sha256sum | cut -d' ' -f1)
  if [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$binary ]]; then
    ln -sf "$KUBEBUILDER_ASSETS/$binary" "$out/$binary"
    return
  fi
  if [[ -x $out/$binary && $(cat "$out/.$binary.stamp" 2>/dev/null) == "$stamp" ]]; then
    return
  fi
  echo "building $binary ($package)"
  began=$SECONDS
  (cd "$module" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $flags" -o "$out/$binary.new" "$package")
  mv "$out/$binary.new" "$out/$binary"
  echo "$stamp" >"$out/.$binary.stamp"
  echo "built $binary in $((SECONDS - began)) s"
}

build etcd go.etcd.io/etcd/server/v3 etcd
for binary in kube-apiserver kube-scheduler kube-controller-manager kubectl; do
  build kubernetes "k8s.io/kubernetes/cmd/$binary" "$binary" "$kubernetes_flags"
done
build kwok sigs.k8s.io/kwok/cmd/kwok kwok
build helm helm.sh/helm/v3/cmd/helm helm
if [[ ${2:-} == helm4 ]]; then
  build helm4 helm.sh/helm/v4/cmd/helm helm4
fi
