#!/usr/bin/env python3
"""Checks the charts without a cluster, and keeps the tables in their READMEs current.

Usage: check.py [--update]     with --update the tables are written instead of compared
HELMS names the helm binaries, separated by spaces (default: helm).

Each chart is linted, rendered with the default values and with ci/full-values.yaml, which switches
everything on, by every helm; what comes out is validated against the schemas of every Kubernetes
minor from 1.30 to 1.36. The README's tables of values and rights come from values.yaml's comments
and from the rendered roles, whose rules each say why they are there.
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

ROOT = pathlib.Path(__file__).resolve().parent.parent
HELMS = os.environ.get("HELMS", "helm").split()
CHARTS = {
    "idlewild-hub": ["--set=hub.id=hub.example.org", "--set=hub.address=https://hub.example.org:6443"],
    "idlewild-member": [],
}
VERSIONS = [f"1.{minor}" for minor in range(30, 37)]
# Kinds that Kubernetes itself does not define: ours, and those of the Prometheus operator.
FOREIGN = {"idlewild.dev", "monitoring.coreos.com"}
SCHEMAS = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def helm(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program} {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def rendered(program, chart, full):
    values = [f"--values={ROOT}/charts/{chart}/ci/full-values.yaml"] if full else []
    return helm(
        program, "template", "idlewild", f"{ROOT}/charts/{chart}", "--namespace=idlewild-system",
        f"--kube-version={VERSIONS[0]}.0", *CHARTS[chart], *values,
    )


@functools.cache
def definitions(version):
    path = SCHEMAS / f"v{release(version)}-local-strict/_definitions.json"
    return Resource.from_contents(json.loads(path.read_text()))


@functools.cache
def release(version):
    found = [path.name for path in SCHEMAS.iterdir() if re.match(rf"v{re.escape(version)}\.\d+-local-strict$", path.name)]
    if len(found) != 1:
        sys.exit(f"no schemas for Kubernetes {version} in {SCHEMAS}")
    return found[0].removeprefix("v").removesuffix("-local-strict")


@functools.cache
def validator(version, api_version, kind):
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    path = SCHEMAS / f"v{release(version)}-local-strict/{kind.lower()}-{group}.json"
    if not path.exists():
        return None
    schema = json.loads(path.read_text())
    registry = definitions(version) @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.validators.Draft202012Validator(schema, registry=registry)


def violations(source, text):
    """What Kubernetes would not take, and how many objects were looked at."""
    wrong, count = [], 0
    for document in yaml.load_all(text, Loader):
        if document is None or document["apiVersion"].split("/")[0] in FOREIGN:
            continue
        count += 1
        for version in VERSIONS:
            name = f"{source}: {document['kind']} {document['metadata']['name']} on {version}"
            check = validator(version, document["apiVersion"], document["kind"])
            if check is None:
                wrong.append(f"{name}: {document['apiVersion']} has no such kind")
                continue
            wrong += [f"{name}: {error.json_path}: {error.message[:200]}" for error in check.iter_errors(document)]
    return wrong, count


def described(chart):
    """(key, default, description) of each value, and keys that lack a description."""
    values = yaml.load((ROOT / f"charts/{chart}/values.yaml").read_text(), Loader)
    path, comment, rows, seen = [], [], [], set()
    for line in (ROOT / f"charts/{chart}/values.yaml").read_text().splitlines():
        match = re.match(r"^( *)([A-Za-z]+):", line)
        if line.strip().startswith("#"):
            comment.append(line.strip().lstrip("#").strip())
        elif not match:
            comment = []
        else:
            path = path[: len(match[1]) // 2] + [match[2]]
            if comment and comment[0].startswith("--"):
                rows.append((".".join(path), " ".join(comment).removeprefix("--").strip()))
                seen.add(tuple(path))
            comment = []
    missing = [".".join(leaf) for leaf in leaves(values) if not any(leaf[: len(key)] == key for key in seen)]
    default = lambda key: functools.reduce(lambda at, part: at[part], key.split("."), values)
    return [(key, json.dumps(default(key)), text) for key, text in rows], missing


def leaves(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def unknown(chart):
    """Values that the schema names and values.yaml does not; Helm itself finds the reverse."""
    schema = json.loads((ROOT / f"charts/{chart}/values.schema.json").read_text())
    values = yaml.load((ROOT / f"charts/{chart}/values.yaml").read_text(), Loader)

    def walk(node, at, path):
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        for key, child in node.get("properties", {}).items():
            if key not in at and path + key not in ("global", "resources.claims"):
                yield path + key
            elif isinstance(at.get(key), dict) and at[key]:
                yield from walk(child, at[key], f"{path}{key}.")

    return list(walk(schema, values, ""))


def reasons(text):
    """The comment above each rule of a role, in order; a rule without one shares that of the rule before."""
    found, comment, inside = [], [], False
    for line in text.splitlines():
        if line.startswith("rules:"):
            inside = True
        elif inside and line.startswith("# "):
            comment.append(line[2:])
        elif inside and line.startswith("- "):
            found.append(" ".join(comment) or (found[-1] if found else ""))
            comment = []
        elif inside and line.startswith("  "):
            comment = []
    return found


def rights(text):
    """Rows of the table of rights, and rules without a reason."""
    documents = [(part, yaml.load(part, Loader)) for part in re.split(r"(?m)^---$", text)]
    holders, rows, bare = {}, [], []
    for _, document in documents:
        if document and document["kind"].endswith("Binding") and "roleRef" in document:
            scope = document["metadata"].get("namespace", "")
            names = [f"{subject['name']}" for subject in document.get("subjects", [])]
            holders.setdefault((document["roleRef"]["kind"], document["roleRef"]["name"], scope), []).extend(names)
    for part, document in documents:
        if not document or document["kind"] not in ("Role", "ClusterRole"):
            continue
        name, kind = document["metadata"]["name"], document["kind"]
        scope = document["metadata"].get("namespace", "")
        who = ", ".join(holders.get((kind, name, scope), [])) or f"role `{name}`"
        where = scope or ("everywhere" if holders.get((kind, name, "")) else "where it is bound")
        for rule, why in zip(document["rules"], reasons(part), strict=True):
            if not why:
                bare.append(f"{kind} {name}: {rule}")
            group = rule["apiGroups"][0]
            things = ", ".join(qualified(it, group) for it in rule["resources"])
            only = f" named {', '.join(rule['resourceNames'])}" if "resourceNames" in rule else ""
            wild = [value for values in rule.values() for value in values if value == "*"]
            if wild:
                bare.append(f"{kind} {name}: a wildcard in {rule}")
            rows.append((who, where, things + only, ", ".join(rule["verbs"]), why))
    return rows, bare


def qualified(resource, group):
    name, _, part = resource.partition("/")
    return name + (f".{group}" if group else "") + (f"/{part}" if part else "")


def table(head, rows):
    cell = lambda text: re.sub(r"([|*])", r"\\\1", str(text)).replace("<", "&lt;")
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def placed(readme, name, content):
    begin, end = f"<!-- {name}: made by deploy/check.py --update -->", f"<!-- end of {name} -->"
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def stale(chart, update):
    """What is undocumented, and whether the README is not current."""
    wrong = [f"charts/{chart}/values.schema.json names {key}, values.yaml does not" for key in unknown(chart)]
    values, missing = described(chart)
    wrong += [f"charts/{chart}/values.yaml: {key} has no comment that begins with --" for key in missing]
    rows, bare = rights(rendered(HELMS[0], chart, full=True))
    wrong += [f"charts/{chart}: no reason for {rule}" for rule in bare]
    path = ROOT / f"charts/{chart}/README.md"
    now = path.read_text()
    made = placed(now, "values", table(("value", "default", "meaning"), [(f"`{k}`", f"`{d}`", t) for k, d, t in values]))
    made = placed(made, "rights", table(("who", "where", "what", "verbs", "why"), rows))
    if update:
        path.write_text(made)
    elif made != now:
        wrong.append(f"charts/{chart}/README.md is stale: run make deploy")
    return wrong


def main():
    update = sys.argv[1:] == ["--update"]
    wrong, objects = [], 0
    for chart in CHARTS:
        wrong += stale(chart, update)
        if update:
            continue
        for program in HELMS:
            helm(program, "lint", "--strict", f"{ROOT}/charts/{chart}", "--namespace=idlewild-system", *CHARTS[chart])
            for full in (False, True):
                source = f"{chart} with {'everything on' if full else 'default values'} by {program}"
                found, count = violations(source, rendered(program, chart, full))
                wrong, objects = wrong + found, objects + count
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        found, count = violations(path.name, path.read_text())
        wrong, objects = wrong + found, objects + count
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{objects} objects are valid on Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}")


main()
