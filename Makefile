# Everything that is done with this repository. "make" alone prints this list.

# A clone may belong to another user than the one who builds.
GIT := git -c safe.directory=$(CURDIR)
VERSION := $(shell $(GIT) describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT := $(shell $(GIT) rev-parse HEAD 2>/dev/null)
MODULE := github.com/whalepod/whalepod
# The Kubernetes release whose API we serve and whose kubectl wpctl is.
KUBERNETES := $(shell sed -n 's,^	k8s.io/kubernetes \(v[0-9.]*\).*,\1,p' go.mod)
KUBERNETES_MINOR := $(shell echo $(KUBERNETES) | cut -d. -f2)

export GOFLAGS := $(GOFLAGS) -buildvcs=false
GOBUILD := CGO_ENABLED=0 go build -trimpath
LDFLAGS := -s -w -X $(MODULE)/cmd/internal/version.Version=$(VERSION) \
	-X $(MODULE)/cmd/internal/version.Commit=$(COMMIT) \
	-X k8s.io/component-base/version.gitVersion=$(KUBERNETES) \
	-X k8s.io/component-base/version.gitMajor=1 \
	-X k8s.io/component-base/version.gitMinor=$(KUBERNETES_MINOR) \
	-X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES)
# Packages with tests that need root, namespaces and a Docker Engine.
E2E = $(shell grep -rl --include='*_test.go' '^//go:build e2e' . | xargs dirname | sort -u)
PREFIX ?= /usr/local
GOFILES = $(shell find . -name '*.go' -not -path './.*')

.DEFAULT_GOAL := help
.PHONY: help build demo demo-down test test-unit test-e2e bench conformance generate lint verify install clean

help: ## print this list
	@echo 'Whalepod $(VERSION). Targets:'
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1:\2/p' $(MAKEFILE_LIST) | awk -F: '{printf "  make %-12s %s\n", $$1, $$2}'

build: bin/p4app ## wp-master, wp-agent and wpctl into bin/, static
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

# Becomes an image: without the version in it, so that it is built once. The program that prepares images is built in the
# same go, so that "make demo" can start it while the others are still being compiled.
.PHONY: bin/p4app
bin/p4app:
	@mkdir -p bin
	$(GOBUILD) -ldflags '-s -w' -o bin/ ./lab/images/p4app ./lab/images/prepare

demo: ## WP_NODES nodes (default 3) on WP_LINKS links (default 1) on this machine, with WordPress on them
	@# The first time, compiling and building images take minutes each: side by side, after what both need is compiled.
	@$(MAKE) --no-print-directory bin/p4app
	@$(MAKE) --no-print-directory -j2 build demo-images
	bin/wpctl demo up

.PHONY: demo-images
demo-images: bin/p4app
	@bin/prepare bin

demo-down: ## end the demo and remove what it made
	@[ -x bin/wpctl ] || $(MAKE) build
	bin/wpctl demo down

test: build ## all tests, after installing what they need
	bin/wpctl demo install
	$(MAKE) test-unit test-e2e

test-unit: ## tests that need neither root nor Docker
	@# -trimpath: what was compiled for another clone of the same code is not compiled again. Vetting is lint's.
	go test -race -shuffle=on -trimpath -vet=off ./...

test-e2e: build ## tests on a real cluster in this machine's namespaces (root)
	@# The cluster's tests wait most of the time. Those of single packages run beside them and give way to them.
	$(MAKE) --no-print-directory -j2 e2e-cluster e2e-packages

# lab/again: what fails while the host of a virtual machine has its processors is run once more.
GOTEST_E2E := -tags e2e -count=1 -vet=off -trimpath -timeout 60m
.PHONY: e2e-cluster e2e-packages
e2e-cluster:
	go run ./lab/again -flags '$(GOTEST_E2E) -parallel 4' ./lab/e2e
e2e-packages:
	nice -n 5 go run ./lab/again -flags '$(GOTEST_E2E) -p 1' $(filter-out ./lab/e2e,$(E2E))

bench: build ## what docs/PERFORMANCE.md records, as one table beside the budgets (root)
	go run ./lab/bench

KIT ?= ../shared/conformance
TESTS ?= open
RUNS ?= 1
JOBS ?= 1
conformance: build ## Kubernetes' conformance tests on the demo cluster (root; KIT=DIR TESTS=SELECTION RUNS=N JOBS=N)
	go run ./lab/conformance -kit $(KIT) -runs $(RUNS) -jobs $(JOBS) '$(TESTS)'

generate: ## generated code anew
	go generate ./...

lint: ## gofmt, vet, staticcheck
	@unformatted=$$(gofmt -l $(GOFILES)); [ -z "$$unformatted" ] || { echo "not as gofmt writes it:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go vet -tags e2e $(E2E)
	@# Kubernetes deprecates fields that clients go on sending: SA1019 would forbid serving them.
	go tool staticcheck -checks inherit,-SA1019 -tags e2e ./...

verify: generate ## generated code is what the repository has
	$(GIT) diff --exit-code

install: build ## the programs into PREFIX/bin (default /usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 bin/wp-master bin/wp-agent bin/wpctl $(DESTDIR)$(PREFIX)/bin/

clean: ## what make build made
	rm -rf bin
