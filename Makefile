# SPDX-License-Identifier: Apache-2.0
#
# "make" lists what there is to make. "make demo" and "make test" each work as the first command
# on a bare Debian 12 or 13 or Ubuntu 24.04: what is missing is installed, or named in one line.

# The distribution's own Python: a service under systemd cannot see one in a home directory.
PYTHON ?= /usr/bin/python3
DEB_PACKAGES ?= python3-venv python3-dev gcc g++ pkg-config libsystemd-dev libsimdjson-dev \
	systemd-container netcat-openbsd jq strace

# The man pages that "make install" takes along, where "make man" has made them.
MAN ?= docs/build/man

# Where "make install" puts things, each below DESTDIR.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# The directory of the notif-relayd program; empty lets systemd find it in its own path, of which
# /usr/bin and /usr/local/bin are part.
BINDIR ?=

# What "make test-all" runs, and on which Pythons, as far as they are found: 3.10 and all newer ones.
SUITES ?= tests/unit tests/functional
PYTHONS ?= $(shell seq -f 3.%.0f 10 29)

# The Debian release that packages are built for: this host's, or Debian 12 where it is no Debian.
SUITE ?= $(or $(shell . /etc/os-release && [ "$$ID" = debian ] && echo "$$VERSION_CODENAME"),bookworm)
ROOTS = .debian/$(SUITE)

# Two at a time: much of a test's time is waiting. A file stays together, as the container does.
PYTEST ?= pytest -q -n 2 --dist loadfile

# What generates load, and what costs least under it.
LOAD = bench/build/load bench/build/limit

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-ends test-oldest lint bench bench-check fuzz soak docs man install uninstall dist deb test-deb test-confined upgradable clean supported packages FORCE

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

venv: .venv/.made ## everything for development, into .venv

demo: .venv/.made ## real notifications from two services to two subscribers, in 15 seconds
	@.venv/bin/python docs/examples/demo/run.py

# For one of the examples, and half a gigabyte that only this wants.
test: DEB_PACKAGES += golang-go
test: .venv/.made .promtool/promtool $(LOAD) ## unit, functional and systemd tests (the last as root only)
	@echo "Running the tests for 5 to 10 minutes; those in tests/systemd boot a container for 2 of them"
	@.venv/bin/python -m $(PYTEST)

test-all: packages $(LOAD) ## unit and functional tests on every Python from 3.10 on that is here
	@$(MAKE) --no-print-directory -k $(patsubst %,test-on-%,$(or $(FOUND),none))

test-ends: packages ## unit tests on the oldest and the newest of those
	@$(MAKE) --no-print-directory -k SUITES=tests/unit \
		$(patsubst %,test-on-%,$(or $(sort $(firstword $(FOUND)) $(lastword $(FOUND))),none))

test-oldest: .venvs/oldest/.made ## what oslo.messaging loads, on the oldest one supported
	@echo "oslo.messaging $(OLDEST)"
	@.venvs/oldest/bin/python -m $(PYTEST) $(filter-out %_services.py %_upstream.py,$(wildcard tests/*/test_messaging_*.py))

SCRIPTS = devstack/settings $(wildcard .ci/run */*.sh */*/*.sh tests/systemd/inside/*.sh)

lint: DEB_PACKAGES += shellcheck
lint: .venv/.made ## ruff, mypy, shellcheck, the compiler, and what Ansible checks without a host
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy
	@shellcheck $(SCRIPTS)
	@$(CXX) -fsyntax-only -std=c++17 -Wall -Wextra -Werror \
		$(addprefix -I,$(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')) \
		relayd/notif_relayd/*.cpp
	@LC_ALL=C.UTF-8 .venv/bin/ansible-playbook --syntax-check -i compute, packaging/ansible/relay.yml >/dev/null

bench: .venv/.made $(LOAD) ## the relay beside its peers, and what its parts cost; QUICK=1, CHECK=1
	@bench/install-peers.sh || true
	@($(call extra,bench,matplotlib; import zmq)) || true
	@status=0; .venv/bin/python bench/run.py --size $(if $(QUICK),quick,full) \
		$(if $(CHECK),--check) $(FIGURES) || status=1; \
	for each in $(if $(CHECK),,emit notify $(if $(QUICK),,filters subscribe hostile)); do \
		.venv/bin/python bench/$$each.py $(if $(QUICK),--rounds 5) || status=1; done; exit $$status

bench-check: .venv/.made $(LOAD) ## the part of it that needs no peer, against bench/baseline.json
	@.venv/bin/python bench/run.py --size cheap --check

bench/build/%: bench/%.c | packages
	@mkdir -p $(@D)
	@$(CC) -std=c11 -Wall -Wextra -Werror -O2 -o $@ $<

fuzz: .venv/.made ## hostile records, requests and state, SECONDS=60 for each
	@$(call extra,fuzz,atheris)
	@for each in records requests state; do \
		.venv/bin/python tests/fuzz/run.py $$each --seconds $(or $(SECONDS),60) || exit 1; done

soak: .venv/.made ## churn, slow readers and restarts for MINUTES=10; draws soak.png
	@$(call extra,bench,matplotlib)
	@.venv/bin/python bench/soak.py --minutes $(or $(MINUTES),10)

docs: man ## HTML and man pages, into docs/build
	@.venv/bin/sphinx-build $(SPHINX) -E -b html docs docs/build/html

man: .venv/.made ## the man pages alone, which "make install" installs once they are there
	@$(call extra,docs,furo)
	@.venv/bin/sphinx-build $(SPHINX) -b man -c docs -t man docs/man docs/build/man
	@command -v man >/dev/null || exit 0; for page in docs/build/man/*.[158]; do \
		wrong=$$(MANWIDTH=80 man --warnings -l "$$page" 2>&1 >/dev/null) || true; \
		[ -z "$$wrong" ] || { echo "$$page: $$wrong" >&2; exit 1; }; done

# -W: a warning is an error. -n: check every cross-reference. -E: Sphinx does not notice changed options
# and commands.
SPHINX = -q -W -n --keep-going

# Installs what only one target needs, if it is not there; no compiler is asked for it.
extra = .venv/bin/python -c 'import $(2)' 2>/dev/null || \
	{ echo "Installing what [$(1)] in pyproject.toml lists"; false; } || .venv/bin/pip install --disable-pip-version-check -q --only-binary :all: -e '.[$(1)]' || \
	{ echo "There is no $(2) for this Python: try another, with PYTHON=" >&2; exit 1; }

install: ## units, users, runtime directory, samples and man pages; takes DESTDIR=, PREFIX=, BINDIR=
	@install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysusers.d \
		$(DESTDIR)$(PREFIX)/lib/tmpfiles.d $(DESTDIR)$(SYSCONFDIR)/notif-relayd
	@install -m 644 systemd/*.socket systemd/*.service $(DESTDIR)$(PREFIX)/lib/systemd/system
	@for each in prometheus grafana textfile; do \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/notif-relayd/$$each etc/$$each/* || exit 1; done
	@sed -i 's,^ExecStart=,&$(BINDIR:%=%/),' $(DESTDIR)$(PREFIX)/lib/systemd/system/notif-relayd*.service \
		$(DESTDIR)$(PREFIX)/share/notif-relayd/textfile/*.service
	@install -m 644 systemd/sysusers.d/* $(DESTDIR)$(PREFIX)/lib/sysusers.d
	@install -m 644 systemd/tmpfiles.d/* $(DESTDIR)$(PREFIX)/lib/tmpfiles.d
	@install -m 644 etc/notif-relayd/relayd.conf.sample $(DESTDIR)$(SYSCONFDIR)/notif-relayd
	@install -m 644 etc/notif-relayd/logging.conf \
		$(DESTDIR)$(SYSCONFDIR)/notif-relayd/logging.conf.sample
	@for page in $(wildcard $(MAN)/*.[158]); do \
		install -D -m 644 "$$page" \
			"$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}" || exit 1; done
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemd-sysusers notif-relayd.conf && \
		systemd-tmpfiles --create notif-relayd.conf && systemctl daemon-reload; fi

# Asks what would be installed, so that there is one list of it. What was put beside it stays.
uninstall: ## what "make install" has put there with the same settings; users and groups stay
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && \
		$(MAKE) --no-print-directory install DESTDIR="$$made" && \
		find "$$made" -type f -printf '$(DESTDIR)/%P\0' | xargs -0 rm -f && \
		find "$$made" -depth -path "$$made/*/notif-relayd*" -type d -printf '$(DESTDIR)/%P\0' | \
			{ xargs -0 rmdir 2>/dev/null || true; }
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

# The wheel is made of the sources that are given away, and not of what else lies around here.
# setuptools makes both by itself; nothing is downloaded. It collects them in this directory, so that
# two of these at once have to wait for one another.
DIST ?= dist
BUILD_PYTHON ?= .venv/bin/python
BUILD = $(abspath $(BUILD_PYTHON)) -c 'import sys; from setuptools import build_meta; \
	getattr(build_meta, sys.argv[1])(sys.argv[2])'
dist: $(if $(filter file,$(origin BUILD_PYTHON)),.venv/.made) ## sdist and wheel, into dist
	@mkdir -p $(DIST)
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && ( flock 9 && $(BUILD) build_sdist "$$work" && \
		tar -xf "$$work"/*.tar.gz -C "$$work" && cd "$$work"/*/ && \
		$(BUILD) build_wheel "$$work" ) 9<pyproject.toml >"$$work/log" 2>&1 || { cat "$$work/log" >&2; exit 1; }; \
		cp "$$work"/*.tar.gz "$$work"/*.whl $(DIST)

# In a root of its own, so that what is asked for is what debian/control says, and nothing comes to
# this host but mmdebstrap. It has the unified cgroup hierarchy, since systemd-nspawn of Debian 12 fails
# with the older ones inside a container. Debian 12 has no python3-msgspec: it is made first, once.
deb: $(ROOTS)/build.made .venv/.made ## Debian packages for SUITE, into dist; checked by lintian; as root only
	@echo "Building the packages for $(SUITE); log: .debian/log"
	@rm -rf .debian/in && mkdir -p .debian/in .debian/msgspec $(DIST)
	@[ $(SUITE) != bookworm ] || { ls .debian/msgspec/*.tar.gz >/dev/null 2>&1 || .venv/bin/pip download \
		--quiet --no-deps --disable-pip-version-check --no-binary :all: --no-build-isolation \
		--require-hashes -d .debian/msgspec -r packaging/python-msgspec/requirements.txt; \
		cp .debian/msgspec/*.tar.gz .debian/in; }
	@$(MAKE) --no-print-directory dist DIST=.debian/in
	@cp -r packaging/python-msgspec packaging/build.sh .debian/in
	@env -i PATH="$$PATH" SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=yes \
		systemd-nspawn --quiet --register=no --keep-unit --as-pid2 \
		--private-network --volatile=overlay -D $(ROOTS)/build --bind-ro=$(CURDIR)/.debian/in:/opt/in --bind=$(abspath $(DIST)):/opt/out \
		--setenv=DEB_VERSION=$(DEB_VERSION) /opt/in/build.sh </dev/null >.debian/log 2>&1 || \
		{ cat .debian/log >&2; exit 1; }

test-deb: $(ROOTS)/container.made upgradable ## those packages installed, upgraded under load and purged, with a real systemd
	@packaging/test.sh container $(CURDIR)/$(ROOTS)/container $(CURDIR)/.debian/old $(CURDIR)/.debian/new

test-confined: $(ROOTS)/machine.made upgradable ## those packages in an emulated machine, whose kernel has AppArmor
	@$(MAKE) --no-print-directory packages DEB_PACKAGES="qemu-system-x86 e2fsprogs"
	@packaging/test.sh machine $(CURDIR)/$(ROOTS)/machine $(CURDIR)/.debian/old $(CURDIR)/.debian/new

# The version that it upgrades to differs in nothing but its number.
upgradable:
	@rm -rf .debian/old .debian/new
	@$(MAKE) --no-print-directory deb DIST=.debian/old
	@mkdir -p .debian/new && cp .debian/old/python3-msgspec_* .debian/new 2>/dev/null || true
	@$(MAKE) --no-print-directory deb DIST=.debian/new DEB_VERSION=$$(sed -n '1s/.*(\(.*\)).*/\1+upgrade/p' debian/changelog)

$(ROOTS)/%.made: debian/control packaging/root.sh
	@$(MAKE) --no-print-directory packages DEB_PACKAGES="mmdebstrap systemd-container"
	@echo "Installing Debian ($(SUITE)) into $(@D)/$*, which takes a minute or two"
	@mkdir -p $(@D)
	@packaging/root.sh $(SUITE) $(@D)/$* $*
	@touch $@

clean: ## remove everything that was made
	@rm -rf .venv .venvs .debian .promtool .mypy_cache .pytest_cache .ruff_cache .hypothesis build bench/build dist docs/build *.egg-info \
		relayd/notif_relayd/*.so
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each asked for anew, which takes milliseconds, since a package can go as well as come.
INSTALLED = $(patsubst installed:%,%,$(filter installed:%,$(shell \
	dpkg-query -W -f '$${db:Status-Status}:$${Package} ' $(DEB_PACKAGES) 2>/dev/null)))
MISSING = $(filter-out $(INSTALLED),$(DEB_PACKAGES))
SUDO = $(if $(filter-out 0,$(shell id -u)),sudo -n)

packages:
	@missing="$(strip $(MISSING))"; [ -z "$$missing" ] || { \
		$(SUDO) true 2>/dev/null || \
			{ echo "Missing packages, to be installed as root: $$missing" >&2; exit 1; }; \
		echo "Installing $$missing with apt-get"; \
		$(SUDO) apt-get update >/dev/null 2>&1 || true; \
		out=$$($(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -o DPkg::Lock::Timeout=120 \
			--no-install-recommends $$missing 2>&1) || { echo "$$out" >&2; exit 1; }; }

# The release that Debian 12 has, with what was current beside it (OpenStack Zed). It is older than
# 14.7, the first one that says of itself that it supports Python 3.10. That stevedore cannot be used
# with Python 3.12.
OLDEST = 14.0.0
OLDEST_BESIDE = oslo.config==9.0.0 oslo.context==5.0.0 oslo.log==5.0.0 oslo.metrics==0.5.0 \
	oslo.middleware==5.0.0 oslo.serialization==5.0.0 oslo.service==3.0.0 oslo.utils==6.0.0 \
	"stevedore==4.0.0;python_version<'3.12'"

# One for each Python: made anew, or brought up to date, when pyproject.toml asks for other things,
# or what is compiled is another.
COMPILED = setup.py relayd/notif_relayd/_native.cpp
EXTRAS = daemon,test
.venv/.made: EXTRAS = daemon,test,lint,ansible
# pip would search for minutes for requirements that support a Python that is too old.
OLDEST_PYTHON = $(shell sed -n 's/^requires-python = ">=\(.*\)"$$/\1/p' pyproject.toml)
define check-python
version=$$($(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
printf '%s\n' $(OLDEST_PYTHON) "$$version" | sort -CV || { \
	echo "$(1) is Python $$version: set PYTHON= to Python $(OLDEST_PYTHON) or newer" >&2; exit 1; }
endef

define make-venv
@$(call check-python,$(1))
@echo "Making $(@D) with pip, which takes a minute or two; log: $(@D)/pip.log"
@$(1) -m venv $(@D)
@$(@D)/bin/pip install --disable-pip-version-check -e '.[$(EXTRAS)]' $(2) >$(@D)/pip.log 2>&1 || \
	{ cat $(@D)/pip.log; exit 1; }
@touch $@
endef

# Before anything is installed, unless what is installed brings the Python.
supported:
	@! command -v $(PYTHON) >/dev/null || { $(call check-python,$(PYTHON)); }

.venv/.made: pyproject.toml $(COMPILED) | supported packages
	$(call make-venv,$(PYTHON))

.venvs/oldest/.made: pyproject.toml Makefile $(COMPILED) | supported packages
	$(call make-venv,$(PYTHON),oslo.messaging==$(OLDEST) $(OLDEST_BESIDE))

.venvs/%/.made: pyproject.toml $(COMPILED)
	$(call make-venv,$(call interpreter,$*))

# The first Python of version $(1) that runs: pyenv's shims are on the path and may not.
interpreter = $(shell for python in python$(1) $(HOME)/.pyenv/versions/$(1).*/bin/python; do \
	"$$python" -c 'import ensurepip' 2>/dev/null && echo "$$python" && break; done)
FOUND = $(foreach version,$(PYTHONS),$(if $(call interpreter,$(version)),$(version)))

# Out of the package, which is not installed: nothing but promtool is needed of it, and in Debian 12
# and Ubuntu 24.04 it is part of the package prometheus, whose service would start. Where it cannot be
# had, the tests that want it are skipped, and say so.
.promtool/promtool: | packages
	@echo "Fetching promtool with apt-get; log: $(@D)/apt.log"
	@mkdir -p $(@D)
	@cd $(@D) && { $(call download-promtool) || { $(SUDO) apt-get update && $(call download-promtool); }; } \
		>apt.log 2>&1 && dpkg-deb --fsys-tarfile prom*.deb | tar -x --strip-components=3 ./usr/bin/promtool && \
		rm prom*.deb || echo "There is no promtool; see $(@D)/apt.log" >&2
download-promtool = { apt-get download promtool || apt-get download prometheus; }

.PRECIOUS: .venvs/%/.made
test-on-%: .venvs/%/.made FORCE
	@echo "Python $*"
	@.venvs/$*/bin/python -m $(PYTEST) $(SUITES)

test-on-none:
	@echo "No Python of $(PYTHONS) was found" >&2; exit 1
