#!/usr/bin/env bash
# Renders the charts into plain manifests: deploy/hub.yaml and deploy/member.yaml.
#
# Usage: render.sh [--check]     with --check nothing is written; stale files are an error
# HELM names the helm binary (default: helm).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
helm=${HELM:-helm}
check=${1:-}

# render CHART FILE ADVICE ARGS...
render() {
  local chart=$1 file=$2 advice=$3 made
  shift 3
  made=$(mktemp)
  trap 'rm -f "$made"' RETURN
  {
    echo "# Rendered from charts/$chart by deploy/render.sh; do not edit."
    printf '%s\n' "$advice"
    # Helm makes the namespace itself; kubectl needs it among the rest.
    printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: idlewild-system\n'
    # The definitions come first: objects of their kinds follow.
    local definition
    for definition in charts/"$chart"/crds/*.yaml; do
      echo ---
      cat "$definition"
    done
    "$helm" template idlewild "charts/$chart" --namespace idlewild-system --kube-version 1.30.0 "$@" |
      sed -e 's/app.kubernetes.io\/managed-by: Helm/app.kubernetes.io\/managed-by: kubectl/' -e '/^ *helm.sh\/chart:/d'
  } >"$made"
  if [[ $check == --check ]]; then
    cmp -s "$made" "$file" || { echo "$file is stale: run deploy/render.sh" >&2; return 1; }
  else
    cp "$made" "$file"
  fi
}

render idlewild-hub deploy/hub.yaml \
"# Set data.id and data.address of the ConfigMap idlewild-hub first. Apply it twice: the GpuQueue can be
# made only once its definition is established.
#   kubectl apply --server-side -f deploy/hub.yaml" \
  --set hub.id=hub.example.org --set hub.address=https://hub.example.org:6443 \
  --set hub.incarnation=null    # applying again must not lower the hub's own number

render idlewild-member deploy/member.yaml \
"#   kubectl apply --server-side -f deploy/member.yaml
# Before you delete it: kubectl idlewild leave --all-hubs" \
  --set leaveOnUninstall=false    # a hook of Helm's; kubectl would run it at once
