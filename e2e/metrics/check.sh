#!/usr/bin/env bash
# Checks alerts and dashboards without a cluster: promtool reads the rules and plays the tests beside
# this file, helm compares each dashboard with the JSON Schema beside it.
#
# PROMTOOL and HELM name the programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
promtool=${PROMTOOL:-promtool}
helm=${HELM:-helm}
tests=$(mktemp -d)
trap 'rm -rf "$tests"' EXIT

for rules in charts/*/rules/*.yaml; do
  name=$(basename "$rules" .yaml)
  said=$("$promtool" check rules "$rules" 2>&1) || { echo "$said" >&2; exit 1; }
  sed "s#RULES#$PWD/$rules#" "e2e/metrics/$name.test.yaml" >"$tests/$name.yaml"
  said=$("$promtool" test rules "$tests/$name.yaml" 2>&1) || { echo "$said" >&2; exit 1; }
done
for dashboard in charts/*/dashboards/*.json; do
  said=$("$helm" template dashboard e2e/metrics/dashboard --values "$dashboard" 2>&1) ||
    { echo "$dashboard: $said" >&2; exit 1; }
done
