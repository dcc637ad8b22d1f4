# Every target is a thing that a person does. `make help` lists them.

GO ?= go
CACHE := $(CURDIR)/.cache
BIN := $(CACHE)/bin

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: demo
demo: ## a CA, an OpenID provider and a log in one process; a certificate over real sockets, verified and shown
	@$(GO) run ./cmd/mayfly demo

.PHONY: build
build: ## the binary, ./mayfly
	CGO_ENABLED=0 $(GO) build -trimpath -o mayfly ./cmd/mayfly

.PHONY: test
test: lint generate-check ## everything that must hold: vet, staticcheck, buf lint, generated code, tests with -race
	$(GO) test -race -timeout 10m ./...

.PHONY: lint
lint: tools
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt these: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(BIN)/staticcheck ./...
	$(BIN)/buf lint

.PHONY: generate
generate: tools ## proto/gen and the OpenAPI document from proto/
	PATH=$(BIN):$$PATH $(BIN)/buf generate
	$(GO) test ./certs -run Docs -update

.PHONY: generate-check
generate-check: tools
	@rm -rf $(CACHE)/regenerated && mkdir -p $(CACHE)/regenerated
	PATH=$(BIN):$$PATH $(BIN)/buf generate --output $(CACHE)/regenerated
	diff -r $(CACHE)/regenerated/proto/gen proto/gen

.PHONY: tools
tools: $(BIN)/.tools
$(BIN)/.tools: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	GOBIN=$(BIN) $(GO) install -modfile=tools/go.mod tool
	@touch $@

.PHONY: test-clients
test-clients: ## unmodified clients (sigstore-go, cosign 3 and 2, npm sigstore) against mayfly serve
	test/clients/run.sh

.PHONY: fuzz
fuzz: ## every fuzz target for a minute each (FUZZTIME=…)
	@set -e; for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $${FUZZTIME:-60s} $$package; \
	  done; \
	done

.PHONY: bench
bench: ## the price of a certificate beside its floor
	$(GO) test -run '^$$' -bench 'BenchmarkIssue|BenchmarkFloor' -benchmem ./internal/testca
