# Everything here works from a clean clone; each target installs what it needs.
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO ?= go
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help build quickstart test suites check bench bench-tasks bench-images run fuzz clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## bin/millpond and bin/millpond-agent, static, with a version stamp
	$(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/millpond ./cmd/millpond-agent

quickstart: ## the whole story on a new data folder: image, gallery, pool of two VMs, tasks
	@scripts/install run az
	@$(MAKE) --no-print-directory build
	@scripts/quickstart

run: build ## a server on ~/.millpond
	@scripts/install run
	bin/millpond serve

check: ## format, vet, lint, import tiers, unit tests with -race; no root, boots nothing
	@scripts/check

test: ## everything: check, real VMs, the real az, the SDKs
	@scripts/install run az oldaz python azurite shares signed
	@scripts/check
	@$(MAKE) --no-print-directory build
	@scripts/test

suites: ## the vendors' own test suites and samples; writes docs/wire/suites.md
	@scripts/install run azurite suites
	@$(MAKE) --no-print-directory build
	@scripts/suites

bench: ## all benchmarks beside their alternatives (SUITES='large clones' some); writes docs/benchmarks/report.md
	@scripts/install run bench nomad
	@$(MAKE) --no-print-directory build
	@scripts/bench $(SUITES)

bench-tasks: ## tasks per second and latencies, beside Slurm and HyperQueue
	@scripts/install run bench
	@$(MAKE) --no-print-directory build
	@scripts/bench-tasks

bench-images: ## measure the image store beside qemu-img, cp and rsync
	@scripts/install run images
	@$(MAKE) --no-print-directory build
	@scripts/bench-images

fuzz: ## each fuzz target for FUZZTIME (default 20s)
	@scripts/fuzz

clean: ## remove binaries and caches
	rm -rf bin .cache
