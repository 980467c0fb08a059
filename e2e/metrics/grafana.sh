#!/usr/bin/env bash
# Checks the dashboards against the types of Grafana's own package @grafana/schema. Needs node, npm and a
# package registry, so it is no part of the gate; e2e/metrics/dashboard/ is the schema that is.
#
# Usage: grafana.sh DIR      DIR keeps the packages
set -euo pipefail
dir=${1:?usage: grafana.sh DIR}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$dir" && cd "$dir"
[[ -f package.json ]] || echo '{"private": true}' >package.json
npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts \
  --save-exact @grafana/schema@12.4.11 typescript@5.9.3
sources=()
for dashboard in "$root"/charts/*/dashboards/*.json; do
  source=$(basename "$dashboard" .json).ts
  {
    echo "import type { Dashboard } from '@grafana/schema';"
    # JSON has strings where TypeScript has enums.
    # shellcheck disable=SC2016
    echo 'type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;'
    echo "export const dashboard: Plain<Dashboard> = $(cat "$dashboard");"
  } >"$source"
  sources+=("$source")
done
npx tsc --noEmit --strict --skipLibCheck --moduleResolution node --module esnext --target es2020 "${sources[@]}"
