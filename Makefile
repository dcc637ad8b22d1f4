# Every target is a task for a developer or operator. `make help` lists them.

GO ?= go
CACHE := $(CURDIR)/.cache
# Tools are separate modules, so that mayfly's module contains none of their dependencies.
STATICCHECK := $(GO) tool -modfile=tools/go.mod staticcheck
BUF := $(GO) tool -modfile=tools/buf/go.mod buf
# A race-built process otherwise sleeps a second when it ends, in case another thread still has a
# race to report: the transcripts start hundreds of processes.
export GORACE ?= atexit_sleep_ms=0
# Where the output of a test is filtered, its exit code counts.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: demo
demo: ## a development world on a free port; a certificate over REST and over gRPC, shown; a refusal
	@GO='$(GO)' test/demo.sh

# Which signers beyond files a binary has, separated by commas: pkcs11 (needs cgo), awskms,
# gcpkms, azurekms, hashivault.
SIGNERS ?=
ALL_SIGNERS := pkcs11,awskms,gcpkms,azurekms,hashivault

.PHONY: build
build: ## the binary, ./mayfly (SIGNERS=pkcs11,awskms,… for keys beyond files)
	CGO_ENABLED=$(if $(findstring pkcs11,$(SIGNERS)),1,0) $(GO) build -trimpath -tags "$(SIGNERS)" -o mayfly ./cmd/mayfly

# The platforms of a release, and what its builds have in common: the commit is stamped, and nothing of this machine.
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
RELEASE_FLAGS := -trimpath -buildvcs=true -ldflags="-s -w"
RELEASE := $(CACHE)/release

.PHONY: binaries
binaries: ## static binaries for PLATFORMS in .cache/release: mayfly_linux_amd64, …
	@mkdir -p $(RELEASE)
	@set -e; for platform in $(PLATFORMS); do os=$${platform%/*}; arch=$${platform#*/}; \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build $(RELEASE_FLAGS) -o $(RELEASE)/mayfly_$${os}_$$arch ./cmd/mayfly; \
	done

# From what the go command recorded in each binary. -trimpath: the tool's own hash is in the document.
SBOM := GOFLAGS=-trimpath $(GO) tool -modfile=$(CURDIR)/tools/sbom/go.mod cyclonedx-gomod bin -json -std -noserial -notimestamp

.PHONY: image
image: PLATFORMS := linux/amd64 linux/arm64
image: binaries ## the container image, an OCI layout in .cache/image, with an SBOM of each platform beside it; needs no container engine
	@rm -rf $(CACHE)/image && mkdir -p $(CACHE)/image
	@set -e; for arch in amd64 arm64; do $(SBOM) -output $(CACHE)/image/mayfly_linux_$$arch.cdx.json $(RELEASE)/mayfly_linux_$$arch; done
	@created=$$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ); version=$$(git describe --tags --match 'v*' --always --dirty); \
	$(GO) run -C tools/image . --out $(CACHE)/image/layout --binaries $(RELEASE) --rootfs $(CURDIR)/deploy/container/rootfs \
	  --version "$${version#v}" --revision "$$(git rev-parse HEAD)" --created "$$created" | tee $(CACHE)/image/digest

.PHONY: test-image
test-image: image ## unpacks the image, checks each file, and runs it with a read-only root as user 65532 to a first certificate (as root on Linux)
	MAYFLY_IMAGE=$(CACHE)/image $(GO) test -C tools/image -count=1 -timeout 5m .

# Dated by the last commit, so that equal sources give equal pages.
.PHONY: man
man: ## man pages in .cache/man (mayfly.1.gz, …), completions for bash, zsh and fish in .cache/completions
	@rm -rf $(CACHE)/man $(CACHE)/completions
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) MAYFLY_MANUAL=$(CACHE) $(GO) test -count=1 -run 'TestManual$$' ./cmd/mayfly
	@gzip -9n $(CACHE)/man/*.1

# goreleaser is run at a version and not from a module of tools/: its 400 dependencies are in no binary of mayfly. It
# needs a clone with a remote.
.PHONY: goreleaser-check
goreleaser-check: ## .goreleaser.yaml is valid, and builds a release in .cache/dist, unsigned (some minutes)
	$(GO) run github.com/goreleaser/goreleaser/v2@v2.15.1 check
	$(GO) run github.com/goreleaser/goreleaser/v2@v2.15.1 release --snapshot --clean --skip=sign,publish
	cd $(CACHE)/dist && sha256sum --check checksums.txt

.PHONY: packages
packages: ## the Debian and the RPM package in .cache/packages (ARCH=arm64 …)
	deploy/packages/build.sh

.PHONY: test-packages
test-packages: ## builds both twice; installs the Debian one under a systemd of its own, to a first certificate, a restart, an upgrade and a purge (as root on Debian)
	test/packages/run.sh

.PHONY: test
test: lint generate-check ## everything that must hold: vet, staticcheck, buf lint, generated code, tests with -race
	$(GO) test -race -timeout 10m ./...

.PHONY: test-signers
test-signers: ## keys in SoftHSM2, at key-management services and in a process of their own, end to end (needs softhsm2)
	$(GO) vet -tags $(ALL_SIGNERS) ./app/... ./cmd/...
	$(STATICCHECK) -tags $(ALL_SIGNERS) ./app/... ./cmd/...
	MAYFLY_SOFTHSM=required $(GO) test -race -count=1 -timeout 10m ./ca/signer/pkcs11
	MAYFLY_SOFTHSM=required $(GO) test -race -count=1 -timeout 10m -tags $(ALL_SIGNERS) -run Signer ./app/... ./cmd/mayfly

.PHONY: lint
lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt these: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(BUF) lint

.PHONY: generate
generate: ## proto/gen and the OpenAPI document from proto/, the tables in docs/ from the code
	$(BUF) generate
	$(GO) test ./app ./dev ./server ./test/conformance ./test/load ./config ./migrate -run 'Document$$' -update

.PHONY: generate-check
generate-check: ## generating again changes nothing
	@rm -rf $(CACHE)/regenerated && mkdir -p $(CACHE)/regenerated
	$(BUF) generate --output $(CACHE)/regenerated
	diff -r $(CACHE)/regenerated/proto/gen proto/gen
	diff -r $(CACHE)/regenerated/proto/openapi proto/openapi

.PHONY: test-clients
test-clients: ## unmodified clients (sigstore-go, cosign 3 and 2, npm sigstore, a browser) and a TesseraCT log with mayfly serve and mayfly dev
	test/clients/run.sh

# promtool alone: installing Debian's package starts a server.
PROMTOOL ?= $(or $(shell command -v promtool),$(CACHE)/prometheus/usr/bin/promtool)
$(CACHE)/prometheus/usr/bin/promtool:
	mkdir -p $(CACHE)/prometheus
	cd $(CACHE)/prometheus && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . && rm -r prometheus_*.deb usr/bin/prometheus

.PHONY: test-alerts
test-alerts: $(PROMTOOL) ## each alert of deploy/prometheus fires in its case, and only then; each query of deploy/grafana parses (downloads promtool on Debian)
	$(PROMTOOL) check rules deploy/prometheus/alerts.yaml
	$(PROMTOOL) test rules deploy/prometheus/alerts_test.yaml
	@mkdir -p $(CACHE)/prometheus && cp deploy/compose/prometheus.yaml deploy/prometheus/alerts.yaml $(CACHE)/prometheus/
	$(PROMTOOL) check config $(CACHE)/prometheus/prometheus.yaml
	PROMTOOL=$(abspath $(PROMTOOL)) $(GO) test -count=1 -run TestDashboard ./app

# helm, kubeconform and kustomize, built from tools/helm.
HELM_TOOLS := $(CACHE)/helm
.PHONY: helm-tools
helm-tools:
	@mkdir -p $(HELM_TOOLS)
	cd tools/helm && $(GO) build -o $(HELM_TOOLS)/ tool

# Labels of Helm have no meaning in plain manifests; an overlay states the namespace.
.PHONY: manifests
manifests: helm-tools ## deploy/kustomize/base from the chart, and the chart's copies of alerts and dashboard
	cp deploy/prometheus/alerts.yaml deploy/grafana/mayfly.json deploy/helm/mayfly/files/
	$(HELM_TOOLS)/helm template mayfly deploy/helm/mayfly --namespace mayfly --values deploy/kustomize/values.yaml \
	  | sed -e '/managed-by: Helm/d; /helm.sh\/chart/d; /^  namespace: /d' > deploy/kustomize/base/mayfly.yaml

.PHONY: test-chart
test-chart: helm-tools ## the Helm chart and its manifests: lint, a matrix of values, each object by its schema, a first certificate
	CGO_ENABLED=0 $(GO) build -trimpath -o $(HELM_TOOLS)/ ./cmd/mayfly
	MAYFLY_HELM=$(HELM_TOOLS)/helm MAYFLY_KUBECONFORM=$(HELM_TOOLS)/kubeconform MAYFLY_KUSTOMIZE=$(HELM_TOOLS)/kustomize \
	  MAYFLY_BINARY=$(HELM_TOOLS)/mayfly $(GO) test -count=1 ./test/chart

# An API server with its etcd, and no nodes: eight minutes to build on two cores, once.
CLUSTER_TOOLS := $(CACHE)/cluster
.PHONY: test-cluster
test-cluster: helm-tools ## a server of Kubernetes' API takes each object of the chart, as a dry run (builds kube-apiserver and etcd: 8 minutes)
	@mkdir -p $(CLUSTER_TOOLS)
	cd tools/cluster && $(GO) build -trimpath -ldflags="-s -w" -o $(CLUSTER_TOOLS)/ tool
	MAYFLY_HELM=$(HELM_TOOLS)/helm MAYFLY_ETCD=$(CLUSTER_TOOLS)/server MAYFLY_KUBE_APISERVER=$(CLUSTER_TOOLS)/kube-apiserver \
	  MAYFLY_KUBECTL=$(CLUSTER_TOOLS)/kubectl $(GO) test -count=1 -run 'TestCluster$$' ./test/chart

SHELLCHECK ?= $(or $(shell command -v shellcheck),$(CACHE)/shellcheck/usr/bin/shellcheck)
$(CACHE)/shellcheck/usr/bin/shellcheck:
	mkdir -p $(CACHE)/shellcheck
	cd $(CACHE)/shellcheck && apt-get download -qq shellcheck && dpkg -x shellcheck_*.deb . && rm shellcheck_*.deb

.PHONY: test-runbooks
test-runbooks: $(SHELLCHECK) ## the scripts of deploy/runbooks: shellcheck, and each one from its fault to the recovery (downloads shellcheck on Debian)
	$(SHELLCHECK) -x -P deploy/runbooks deploy/runbooks/*.sh
	$(GO) test -race -count=1 ./test/runbooks

.PHONY: sizes
sizes: ## what 5,000 certificates leave on the disk, and how long a backup takes (a minute)
	@MAYFLY_SIZES=1 $(GO) test -count=1 -v -timeout 10m -run TestSizes ./test/runbooks | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^\(--- FAIL\|FAIL\|panic\|ok\)/p'

.PHONY: test-fips
test-fips: ## conformance, proofs and logs with FIPS 140-3 enforced by Go's runtime (GODEBUG=fips140=only)
	GODEBUG=fips140=only $(GO) test ./test/conformance ./proof ./ctlog

# Two clones in folders with names of different length, each with a build cache of its own.
# The second is a clone of the first: a commit in between changes nothing.
.PHONY: reproducible release-check
reproducible: GOALS := build
reproducible: FILES := mayfly
reproducible: ## two builds of the last commit in different folders give the same bytes
release-check: GOALS := binaries image man
release-check: FILES := .cache/release/* .cache/image/digest .cache/image/*.cdx.json .cache/man/* .cache/completions/*
release-check: ## the same of everything in a release: binaries, image, lists of components, man pages (10 minutes)
reproducible release-check:
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	git clone -q . "$$dir/a"; git clone -q "$$dir/a" "$$dir/another/folder"; \
	for clone in a another/folder; do \
	  GOCACHE="$$dir/cache" $(MAKE) -s -C "$$dir/$$clone" $(GOALS) >&2; \
	  rm -rf "$$dir/cache"; \
	  (cd "$$dir/$$clone" && sha256sum $(FILES)) > "$$dir/sums.$${clone%%/*}"; \
	done; cat "$$dir/sums.a"; \
	diff "$$dir/sums.a" "$$dir/sums.another" || { echo "the builds differ"; exit 1; }

# It needs the database at vuln.go.dev, so it is a step of a release and not of .ci/run.
.PHONY: vuln
vuln: ## known vulnerabilities that the code reaches (needs the database at vuln.go.dev)
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./... || { echo "vulnerabilities above, or the database cannot be reached: the release waits"; exit 1; }

.PHONY: fuzz
fuzz: ## every fuzz target for a minute each (FUZZTIME=…)
	@set -e; for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $${FUZZTIME:-60s} $$package; \
	  done; \
	done

.PHONY: chaos
chaos: ## each fault of logs, issuers, signers, disks, networks and of the process, under load: a table; kill -9 of a log 50 times (5 minutes)
	@MAYFLY_CHAOS=1 $(GO) test -count=1 -v -timeout 10m -parallel 4 ./test/chaos | sed '/^=== /d'
	MAYFLY_CHAOS=50 $(GO) test -count=1 ./ctlog/embedded -run Chaos -v

# HAProxy alone, with its libraries: installing Debian's package starts a server. HAPROXY= takes a balancer of the test instead.
# FLEET_DIR= is where logs and replicas write: in memory by default, so that the machine's disk is no part of the test.
HAPROXY ?= $(or $(shell command -v haproxy),$(CACHE)/haproxy/usr/sbin/haproxy)
FLEET_DIR ?= $(firstword $(wildcard /dev/shm) /tmp)
$(CACHE)/haproxy/usr/sbin/haproxy:
	mkdir -p $(CACHE)/haproxy
	cd $(CACHE)/haproxy && apt-get download -qq haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 && \
	  for package in *.deb; do dpkg -x $$package .; done && rm *.deb

.PHONY: fleet
fleet: $(HAPROXY) ## three replicas behind HAProxy under load: killed, frozen, restarted, with a wrong clock, new issuers and CA keys: a table (4 minutes)
	test/clients/tools.sh tesseract
	@MAYFLY_FLEET=1 HAPROXY='$(HAPROXY)' FLEET_DIR='$(FLEET_DIR)' $(GO) test -count=1 -v -timeout 10m -run 'TestFleet$$' ./test/fleet | sed '/^=== /d'

.PHONY: siege
siege: ## attack mayfly serve as one outsider can: connections, readers, watchers, log lines; prints figures (2 minutes)
	@MAYFLY_SIEGE=1 $(GO) test -count=1 -v -timeout 10m ./test/siege | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^\(--- FAIL\|FAIL\|panic\|ok\)/p'

.PHONY: bench-large-log
bench-large-log: ## the embedded log with a million entries (3 GB of disk, some minutes; MAYFLY_ENTRIES=…)
	$(GO) test ./ctlog/embedded -run '^$$' -bench LargeLog -benchtime 1x -timeout 40m

.PHONY: rotation
rotation: ## three replicas under 64 clients while an authority is added, activated and retired (ROTATION_SECONDS=…)
	ROTATION_CLIENTS=$${ROTATION_CLIENTS:-64} ROTATION_SECONDS=$${ROTATION_SECONDS:-10} $(GO) test -count=1 -v -run TestRotationUnderLoad ./app

.PHONY: rotation-signers
rotation-signers: ## the same from a key in a file to one in a token of SoftHSM2
	MAYFLY_SOFTHSM=required ROTATION_CLIENTS=$${ROTATION_CLIENTS:-64} ROTATION_SECONDS=$${ROTATION_SECONDS:-10} $(GO) test -count=1 -v -tags pkcs11,hashivault -run TestSignerRotation ./app

.PHONY: figures-oidc
figures-oidc: ## the figures of issuer discovery: hanging, failing, huge and flooding issuers
	@$(GO) test -count=1 -v -run TestFigure ./oidc | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^\(--- FAIL\|FAIL\|panic\|ok\)/p'

# COUNT=10 prints each figure ten times, for benchstat. GOGC is as mayfly serve sets it.
.PHONY: bench
bench: ## the cost of a certificate beside its floor, of the embedded log, and of a policy over 200 repositories
	@GOGC=350 $(GO) test -run '^$$' -bench 'Issue|Floor' -benchmem -benchtime 3000x -count $${COUNT:-1} ./test/testca
	@$(GO) test -run '^$$' -bench Submit -benchtime 3000x -count $${COUNT:-1} ./ctlog/embedded
	@$(GO) test -run '^$$' -bench Decide -benchmem -count $${COUNT:-1} ./identity/policy

# Variables of growth, each after its default:
#   CURVES=             issuers, patterns, claims, rules, log, clients, replicas: all of them, or some as in CURVES='issuers|log'
#   ROUNDS=10           each round measures every size once
#   MAYFLY_ENTRIES=1000000  the largest embedded log; 10,000,000 takes 30 GB of disk
#   MAYFLY_BINARY=      another binary of mayfly
.PHONY: growth
growth: ## how costs grow with issuers, patterns, tokens, rules, log, clients and replicas; draws docs/img/growth-*.svg (10 minutes)
	@MAYFLY_GROWTH=1 CURVES='$(CURVES)' $(GO) test -count=1 -v -timeout 90m -run 'TestGrowth$$' ./test/load -update | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^ *\(--- \|FAIL\|panic\|ok\)/p'

# Variables of bench-server, each after its default:
#   ROUNDS=10 SLICE=1s  each round gives a slice of time to the server, the floor and the peer, in turn
#   CLIENTS=64          connections of the load generator, each with one request at a time
#   RATE=               requests a second in an open loop; without it, a client sends the next request when it has the answer
#   KINDS=              the rows of the table: embedded, audit (64 clients with an audit log), memory, or API/token/key/log with one of rest-v2, rest-v1, grpc and, with
#                       both on one port, rest-v2+grpc, grpc+rest; email, ci; p256, p384; remote, embedded
#   PEER=               the path of Fulcio's binary, which is started with the same issuers and log
#   MAYFLY_BINARY=      another binary of mayfly, to compare
#   TARGET= PID= ISSUER=  a server that runs on this machine, as http://127.0.0.1:5555, its process, and the address in the URL of
#                       an issuer that it trusts, as 127.0.0.1:9999: the provider of the tokens listens there (/ci for CI tokens)
# ROUNDS=3 KINDS=rest-v2/email/p256/remote is a short form.
.PHONY: bench-server
bench-server: ## the server's CPU time per certificate beside the floor, latency, throughput and memory (5 minutes; ROUNDS=… KINDS=… PEER=…)
	@MAYFLY_LOAD=1 $(GO) test -count=1 -v -timeout 20m -run TestFigures ./test/load | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^\(--- FAIL\|FAIL\|panic\|ok\)/p'

# SECONDS=60 is the length of each row, CLIENTS=1500 the connections of an open loop; ROWS=640 runs the rows with that in their name.
.PHONY: overload
overload: ## a server on one core that gets 3 and 10 times what it can answer, and a noisy organisation beside others (5 minutes)
	@MAYFLY_OVERLOAD=1 GOMAXPROCS=1 $(GO) test -count=1 -v -timeout 20m -run 'TestOverload$$' ./test/load | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^\(--- FAIL\|FAIL\|panic\|ok\)/p'

.PHONY: profile
profile: ## CPU and allocation profiles of a server under the load of bench-server, in .cache/profile (ROUNDS=… KINDS=… …)
	@mkdir -p $(CACHE)/profile
	@SLICE=$${SLICE:-2s} MAYFLY_LOAD_PROFILE=$(CACHE)/profile $(GO) test -count=1 -v -timeout 20m -run TestProfile ./test/load | sed -n 's/^ *[a-z_]*_test.go:[0-9]*: //p; /^    /p; /^\(--- FAIL\|FAIL\|panic\|ok\)/p'

.PHONY: bench-dev
bench-dev: ## how long mayfly dev takes to be ready, with new keys
	$(GO) test -run '^$$' -bench Ready -benchtime 50x ./dev 2>/dev/null

.PHONY: bench-signer
bench-signer: ## certificates a second with the CA's key in the server's process and in one of its own
	@for round in 1 2 3 4 5; do GOGC=350 $(GO) test -run '^$$' -bench Split -benchtime 4000x ./test/testca | grep certificates; done # as mayfly serve sets it

.PHONY: bench-ct
bench-ct: ## what a certificate takes while logs hang or answer 500: p50, p99 and the longest of 2000
	$(GO) test -run '^$$' -bench Outage -benchtime 2000x ./test/testca
