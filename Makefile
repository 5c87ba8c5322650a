# SPDX-License-Identifier: MIT
#
# ublk-bpf: block devices that a BPF program serves inside the kernel. Every target does its own set-up; what it gets or makes
# outside build/ is in UBLK_BPF_CACHE (default ~/.cache/ublk-bpf).
#
#   make demo            a file becomes /dev/ublkb0, served by a program, in a virtual machine with a stock kernel
#        KERNEL=patched    ... with the kernel that has the program type
#        NATIVE=1          ... on this host, as root
#   make test            the quick tests: unit, and some of each kind in virtual machines, with both faces of the kernel part, and on
#                         stock kernels without
#        FACE=module       ... only the stock kernel with our module (struct_ops), or
#        FACE=module-6.12  ... only another stock kernel with our module; also module-7.3
#        FACE=type         ... only the patched kernel (BPF_PROG_TYPE_UBLK), or
#        FACE=stock-6.12   ... only this stock kernel as it is; also stock-6.18, stock-7.2
#        T="ARGS"          ... with these arguments for pytest, as in T="test_cli.py -x" (no unit tests)
#   make test-full       everything: the above with its slow tests (UBLK_BPF_FULL=1), the module on linux 6.12 and 7.3, test-debug,
#                         selftests, test-kill, test-fuzz, test-asan, test-tsan; says how long each takes. Hours.
#        SUITES="..."      ... only these, as in SUITES="module debug" (scripts/test)
#   make test-debug      attach, kill, verify and memory tests on a kernel with KASAN, lockdep, PROVE_RCU, UBSAN
#   make test-kill       200 times kill -9 of the server under writes, over all recovery modes and data paths
#   make test-fuzz       a million random SQEs of a BPF program, under kill -9, replacement, resizing, on the debug kernel. An hour.
#   make selftests       the kernel's own selftests of ublk with our command in kublk's place: what passes with kublk must pass
#                         (make test runs the quick ones)
#        T="EXPRESSION"    ... those whose names match, as in T="recover or stress"
#   make selftests-reference  ... with kublk itself, to compare with
#   make blktests BLKTESTS=DIR  those of blktests' block group that are about any device, on one with a program; DIR is a clone of
#                         https://github.com/linux-blktests/blktests
#   make test-asan       the unit tests, and the server in a virtual machine, with the address and undefined sanitizers
#   make test-tsan       the same with the thread sanitizer
#   make fuzz            what parses input, fuzzed from tests/fuzz/corpus for FUZZ_SECONDS (60) each; make test does it for 10
#   make bench           counted instructions per I/O on both faces; fails where a promised ratio is broken
#        FACE=module       ... on this one,  ARGS="--json FILE"  ... with these options for bench/run
#   make bench-report    ublk-bpf bench: what an I/O costs on each data path and where the time goes, with plots, into ublk-bpf-bench/
#        ARGS="--full"     ... with these options for it
#   make packages        Debian packages into build/packages, built in a clean root from the source package alone (scripts/packages)
#        ARGS="--twice"    ... and a second time, elsewhere: both must be the same to the byte
#   make test-packages   installs them on a Debian 13 host in a virtual machine by the commands of docs/install.md, reboots, updates, removes
#        T=root            ... only what needs no host that runs: apt, dpkg and DKMS in its file system
#        T="STEP ..."      ... only these steps of tests/packages/run.py and what they need
#   make build           the loader (build/loader/ublk-bpf, man, completion), the programs (build/bpf) and the unit tests
#   make check           does the tree keep the house's rules?
#   make check-series    is the kernel series fit to be sent?
#   make check-hooks     do the module's hooks apply to every kernel source that Debian has now? (2 GB, once)
#   make clean           removes build/;  make distclean also the cache

MAKEFLAGS += --no-print-directory
export UBLK_BPF_T0 := $(shell date +%s)

STOCK = stock-7.2 stock-6.18 stock-6.12
FACE ?= module type $(if $(filter test,$(MAKECMDGOALS)),$(if $(T),,$(STOCK)))
KERNEL ?= module
T ?=
# other kernels that the module can be built for
MODULES = module-6.12 module-7.3
SUITES ?= check unit module $(MODULES) type $(STOCK) fuzz bench packages debug selftests kill fuzz-sqes asan tsan
# kublk and the kernel's selftests come with the kernel's source.
fetched = $(sort $(if $(filter module,$(1)),stock source) $(if $(filter type debug patched,$(1)),source) \
	$(filter stock-% module-%,$(1)))

.PHONY: help build check packages test-packages test test-full test-debug test-kill test-fuzz test-asan test-tsan fuzz bench bench-report demo check-hooks check-series selftests selftests-reference blktests clean distclean
.NOTPARALLEL:

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' Makefile

build:
	@scripts/prepare
	@scripts/build

test:
	@scripts/prepare guest $(call fetched,$(FACE))
	@scripts/build
ifeq ($(T),)
	@scripts/test check unit $(FACE) fuzz $(if $(filter module,$(FACE)),bench)
else
	@set -e; for f in $(FACE); do scripts/vm-test $$f $(T); done
endif

test-full:
	@scripts/prepare guest stock source $(STOCK) $(MODULES)
	@scripts/build
	@UBLK_BPF_FULL=1 FUZZ_SECONDS=$${FUZZ_SECONDS:-60} scripts/test $(SUITES)

test-debug:
	@scripts/prepare guest source
	@scripts/build
	@scripts/face-kernel debug >/dev/null
ifeq ($(T),)
	@scripts/test debug
else
	@scripts/vm-test debug $(T)
endif

test-kill:
	@scripts/prepare guest stock
	@scripts/build
	@UBLK_BPF_VERIFY_ROUNDS=$${UBLK_BPF_VERIFY_ROUNDS:-200} scripts/vm-test module test_kill_verify.py

test-fuzz:
	@scripts/prepare guest source
	@scripts/build
	@scripts/face-kernel debug >/dev/null
	@scripts/test fuzz-sqes

test-asan test-tsan:
	@scripts/prepare guest stock
	@scripts/build
	@scripts/test-sanitized $(@:test-%=%) $(T)

selftests:
	@scripts/prepare guest stock source
	@scripts/build
	@UBLK_BPF_SELFTESTS_RUN=1 UBLK_BPF_VM_TIMEOUT=3600 scripts/vm-test module test_selftests.py $(if $(T),-k "$(T)")

selftests-reference:
	@scripts/prepare guest stock source
	@scripts/build
	@UBLK_BPF_SELFTESTS_REFERENCE=1 UBLK_BPF_VM_TIMEOUT=3600 scripts/vm-test module test_selftests.py $(if $(T),-k "$(T)")
	@cp build/vm-test/module/selftests/reference.json tests/selftests/
	@git diff --stat -- tests/selftests

blktests:
	@[ -n "$(BLKTESTS)" ] || { echo "make blktests: needs BLKTESTS=DIR, a clone of https://github.com/linux-blktests/blktests" >&2; exit 2; }
	@scripts/prepare guest stock
	@scripts/build
	@UBLK_BPF_FULL=1 UBLK_BPF_BLKTESTS="$(abspath $(BLKTESTS))" scripts/vm-test module test_blktests.py $(if $(T),-k "$(T)")

fuzz:
	@scripts/prepare
	@scripts/fuzz

bench:
	@scripts/prepare guest $(call fetched,$(FACE))
	@scripts/build ublk-bpf bpf-objects
	@status=0; for f in $(FACE); do bench/run --face $$f $(ARGS) || status=$$?; done; exit $$status

bench-report:
	@scripts/prepare guest $(call fetched,$(FACE))
	@scripts/build ublk-bpf bpf-objects
	@$$(scripts/portable) bench $(ARGS)

packages:
	@scripts/prepare stock
	@scripts/packages $(ARGS)

test-packages:
	@scripts/prepare stock
	@scripts/test-packages $(T)

demo:
	@KERNEL="$(KERNEL)" NATIVE="$(NATIVE)" scripts/demo

check:
	@scripts/prepare
	@scripts/check

check-series:
	@scripts/prepare source
	@kernel/scripts/check-series

check-hooks:
	@kernel/scripts/check-hooks

clean:
	rm -rf build

distclean: clean
	@. scripts/lib.sh && echo "removes $$UBLK_BPF_CACHE" && remove_tree "$$UBLK_BPF_CACHE"

distclean: SHELL := /bin/bash
