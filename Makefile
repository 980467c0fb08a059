# Idlewild: two commands matter. `make demo` shows a federation on this machine; `make test` is the
# gate. Both do all their set-up on a fresh Debian machine with Rust and Go, cached below target/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CONTROLPLANE := target/controlplane
DENY_VERSION := 0.20.2
DENY := target/tools/bin/cargo-deny
PROMETHEUS := target/tools/prometheus
PYTHON := target/tools/python/bin/python
KEEP ?=
# Compiles and lints in one go, as `cargo clippy` does it, and gives programs that can be run: what
# the gate needs is compiled once.
LINTED := RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__ cargo
# The same for the library's own tests, which simulate for minutes: with some optimisation that pays.
SIMULATED := CARGO_PROFILE_TEST_OPT_LEVEL=1 $(LINTED) test --locked --lib --
# The tests among them that take those minutes.
LIVES := testing::crashes testing::defects testing::simulation
# Debian's packages that a build or a run needs: program:package.
NEEDS := cc:gcc setpriv:util-linux
# The same for tests on control planes.
E2E_NEEDS := faketime:faketime
# The same for building and starting the image.
IMAGE_NEEDS := jq:jq runc:runc

# $(call install,NEEDS) installs what is missing.
define install
missing=(); for need in $(1); do command -v "$${need%%:*}" >/dev/null || missing+=("$${need##*:}"); done; \
if (($${#missing[@]})); then echo "installing $${missing[*]}"; apt-get update -q && apt-get install -qy "$${missing[@]}"; fi
endef

.PHONY: help
help: ## Shows this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "  make %-18s %s\n", $$1, $$2 }'

.PHONY: demo
demo: setup build ## Shows a hub and three members run the samples, and an owner taking GPUs back
	target/debug/idlewild --log warn,kube_client=off sandbox demo $(if $(KEEP),--keep)

.PHONY: sandbox
sandbox: setup build ## Starts a hub and three members, and keeps them up until Ctrl-C
	target/debug/idlewild --log warn,kube_client=off sandbox up

.PHONY: test
test: packages e2e-packages image-packages python $(PROMETHEUS)/promtool ## The gate: formatting, lints, dependencies, unit tests, e2e on real control planes
	$(MAKE) --jobs=2 --output-sync=line helm4 check image # two compilers fill each other's gaps
	$(MAKE) simulation
	$(MAKE) e2e test-image

.PHONY: check
check: packages deny ## The part of the gate without control planes
	cargo fmt --check
	$(LINTED) build --locked --bins --test e2e
	$(SIMULATED) $(addprefix --skip ,$(LIVES)) # those are for `make simulation`

.PHONY: simulation
simulation: packages ## Thousands of lives of a federation in virtual time, a death at every write, planted defects
	SEEDS=$(or $(SEEDS),2000) CRASH_STEP=1 $(SIMULATED) --nocapture --test-threads=1 $(LIVES)

.PHONY: e2e
e2e: helm4 charts alerts e2e-packages ## Tests on real control planes
	@# GOGC: API servers of tests live for seconds and have memory to spare.
	GOGC=400 RUST_BACKTRACE=0 $(LINTED) test --locked --test e2e -- --test-threads=64 $(TESTS) # as many run as there are cores

.PHONY: soak
soak: setup ## The long campaign: 100,000 lives of a federation, then every fault of every link (hours)
	$(MAKE) simulation SEEDS=$(or $(SEEDS),100000)
	GOGC=400 RUST_BACKTRACE=0 $(LINTED) test --locked --test e2e -- --test-threads=64 --ignored --nocapture $(or $(TESTS),soak_)

.PHONY: charts
charts: helm4 python ## Checks the charts: lint, schemas of Kubernetes 1.30 to 1.36, tables, plain manifests
	HELM=$(CONTROLPLANE)/helm deploy/render.sh --check
	HELMS="$(CONTROLPLANE)/helm $(CONTROLPLANE)/helm4" $(PYTHON) deploy/check.py

.PHONY: python
python: target/tools/python.stamp

target/tools/python.stamp: deploy/requirements.txt
	python3 -c 'import ensurepip' 2>/dev/null || { apt-get update -q && apt-get install -qy python3-venv; }
	rm -rf target/tools/python
	python3 -m venv target/tools/python
	target/tools/python/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

.PHONY: alerts
alerts: setup $(PROMETHEUS)/promtool ## Checks alerts with promtool, and dashboards against a JSON Schema
	PROMTOOL=$(PROMETHEUS)/promtool HELM=$(CONTROLPLANE)/helm e2e/metrics/check.sh

.PHONY: grafana
grafana: ## Checks the dashboards against the types of Grafana's npm package (needs node and npm)
	e2e/metrics/grafana.sh target/tools/grafana

# Out of Debian's package, without installing it: that would start a Prometheus on this machine.
$(PROMETHEUS)/promtool:
	rm -rf $(PROMETHEUS) && mkdir -p $(PROMETHEUS)/package
	cd $(PROMETHEUS)/package && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; }
	cd $(PROMETHEUS)/package && dpkg-deb --extract prometheus_*.deb .
	mv $(PROMETHEUS)/package/usr/bin/{prometheus,promtool} $(PROMETHEUS)/
	rm -rf $(PROMETHEUS)/package

# The program as it is released.
RELEASED = target/$(shell uname -m)-unknown-linux-gnu/release/idlewild
TRACES := e2e/traces

.PHONY: bench-placement
bench-placement: image ## Prints figures of placement: packing, harvesting, fair shares, speed (G1 to G7, G16, G17)
	for pods in default gpuspec33 multigpu50; do for levels in flat two; do \
		echo "openb $$pods $$levels"; \
		$(RELEASED) simulate openb --nodes $(TRACES)/openb/openb_node_list_gpu_node.csv \
			--pods $(TRACES)/openb/openb_pod_list_$$pods.csv --seeds 10 --policy default --levels $$levels --json; \
	done; done
	for minutes in 0 10; do echo "harvest, checkpoints every $$minutes min (0 = none)"; \
		$(RELEASED) simulate harvest --trace $(TRACES)/helios-earth/earth_vc_compact_may2020.csv.gz \
			--gpus 8 --hours 8 --checkpoint-minutes $$minutes --policy default --json; done
	$(RELEASED) simulate kueue --shape baseline --json
	$(RELEASED) simulate scale --pools 1000 --nodes-per-pool 125 --gpus-per-node 8 --jobs 100000 --growth --json

.PHONY: bench
bench: setup build image bench-placement ## Prints figures: memory and CPU of hub and agent, dispatch through real API servers
	IDLEWILD_PROGRAM=target/$(shell uname -m)-unknown-linux-gnu/release/idlewild \
		cargo test --locked --test e2e -- --test-threads=1 --ignored --nocapture $(or $(TESTS),bench)

.PHONY: bench-dispatch
bench-dispatch: setup ## Prints what a job costs and how long it takes through real API servers: MEMBERS="3 6 12" JOBS=1000 PHASES="half gangs"
	cargo build --locked --release
	IDLEWILD_PROGRAM=target/release/idlewild BENCH_MEMBERS="$(MEMBERS)" BENCH_JOBS="$(JOBS)" BENCH_PHASES="$(PHASES)" \
		cargo test --locked --test e2e -- --test-threads=1 --ignored --nocapture $(or $(TESTS),dispatch::)

.PHONY: image
image: packages image-packages ## Builds the container image and its SBOM below target/image, without a daemon
	deploy/image.sh target/image

.PHONY: test-image
test-image: setup image ## Starts hub and agent from the image with runc, and looks into it
	RUST_BACKTRACE=0 $(LINTED) test --locked --test e2e -- --test-threads=1 --ignored image::

.PHONY: image-reproducible
image-reproducible: image ## Builds the image once more, elsewhere, and compares the digests
	deploy/reproducible.sh target/image

.PHONY: build
build: packages
	cargo build --locked

.PHONY: helm4
helm4: packages # the sandbox needs helm 3 only
	e2e/controlplane/build.sh $(CONTROLPLANE) helm4

.PHONY: setup
setup: packages
	e2e/controlplane/build.sh $(CONTROLPLANE)

.PHONY: packages
packages:
	@$(call install,$(NEEDS))

.PHONY: e2e-packages
e2e-packages:
	@$(call install,$(E2E_NEEDS))

.PHONY: image-packages
image-packages:
	@$(call install,$(IMAGE_NEEDS))

.PHONY: deny
deny: $(DENY)
	cargo fetch --locked --quiet
	$(DENY) --offline check bans licenses sources

$(DENY):
	CARGO_PROFILE_DEV_DEBUG=false cargo install --locked --quiet --debug --root target/tools --version $(DENY_VERSION) cargo-deny

.PHONY: advisories
advisories: $(DENY) ## Checks dependencies against the advisory database, where it can be reached
	$(DENY) check advisories

.PHONY: generate
generate: ## Writes crds/, the charts' copies and the generated policies
	IDLEWILD_UPDATE=1 cargo test --locked --lib -- api::

.PHONY: deploy
deploy: setup python ## Renders the plain manifests in deploy/ from the charts, and the tables of their READMEs
	HELM=$(CONTROLPLANE)/helm deploy/render.sh
	HELMS=$(CONTROLPLANE)/helm $(PYTHON) deploy/check.py --update

.PHONY: release
release: setup ## Packs the charts into e2e/released/, which upgrades are tested from: after a release
	rm -f e2e/released/*.tgz
	$(CONTROLPLANE)/helm package --destination e2e/released charts/idlewild-hub charts/idlewild-member
