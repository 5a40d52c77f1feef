# SPDX-License-Identifier: Apache-2.0
#
# "make" lists the targets. "make demo" and "make test" work as the first command on a minimal Debian 12 or
# 13 or Ubuntu 24.04: they install missing packages, or list them if that requires root.

# Use the distribution's Python, because a service under systemd cannot read one in a home directory.
PYTHON ?= /usr/bin/python3
DEB_PACKAGES ?= python3-venv python3-dev gcc g++ pkg-config libsystemd-dev libsimdjson-dev \
	systemd-container netcat-openbsd jq strace fish zsh

# Directory of the man pages; "make install" installs them if "make man" has built them.
MAN ?= docs/build/man

# Directories for "make install", below DESTDIR.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# Directory of the program notif-relayd. If empty, systemd searches its own path, which includes /usr/bin and
# /usr/local/bin.
BINDIR ?=

COMPLETIONS = relayd/notif_relayctl/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions

# Tests that "make test-all" runs, and versions of Python; versions that are not installed are skipped.
SUITES ?= tests/unit tests/functional
PYTHONS ?= $(shell seq -f 3.%.0f 10 29)

# The Debian release that packages are built for: the first one that has python3-msgspec.
SUITE ?= trixie
ROOTS = .debian/$(SUITE)

# Three processes on two processors, because tests wait for about half of their time. loadfile: the tests of
# a file run in one process and share the file's fixtures, such as the container.
PYTEST ?= pytest -q -n 3 --dist loadfile

# The load generator, and the fastest possible relay to compare with.
LOAD = bench/build/load bench/build/limit

.DEFAULT_GOAL := help
.PHONY: help venv demo test brokers test-all test-ends test-oldest test-services test-ceilometer test-bare lint bench bench-check bench-fleet fuzz soak soak-bridge docs man completions install uninstall dist deb test-deb upgradable clean supported packages FORCE

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

venv: .venv/.made ## create .venv for development

demo: .venv/.made ## show a relay with two services and two subscribers, for 15 seconds
	@.venv/bin/python docs/examples/demo/run.py

test: .venv/.made .promtool/promtool .syslog/.made $(LOAD) brokers ## unit, functional and systemd tests; the last require root
	@echo "Running the tests, which takes about 8 minutes"
	@.venv/bin/python -m $(PYTEST)

# Tests that need a broker that cannot be installed are skipped with the reason.
brokers:
	@bench/install-peers.sh nats-server rabbitmq-server || true

test-all: packages .syslog/.made $(LOAD) brokers ## unit and functional tests on each installed Python from 3.10 on
	@$(MAKE) --no-print-directory -k $(patsubst %,test-on-%,$(or $(FOUND),none))

test-ends: packages ## unit tests on the oldest and the newest installed Python
	@$(MAKE) --no-print-directory -k SUITES=tests/unit \
		$(patsubst %,test-on-%,$(or $(sort $(firstword $(FOUND)) $(lastword $(FOUND))),none))

test-oldest: .venvs/oldest/.made ## driver and transport with the oldest supported oslo.messaging
	@echo "oslo.messaging $(OLDEST)"
	@.venvs/oldest/bin/python -m $(PYTEST) $(filter-out %_services.py %_upstream.py,$(wildcard tests/*/test_messaging_*.py))

# Services for "make test-services": pip selects the newest releases for the Python found that work together. The upper
# limits are the newest releases that the tests have run with.
CEILOMETER = "ceilometer>=25,<28"
SERVICES = "aodh>=19,<24" $(CEILOMETER) "designate>=20,<24" "glance>=30,<34" "keystone>=28,<31" "nova>=31,<35" \
	"python-watcher>=17,<18" "vitrage>=13,<16" "gunicorn>=22,<28" "pyuwsgi>=2.0.23,<2.1"

test-services: .venv/.made .venvs/services/.made .venvs/services/samples brokers ## real OpenStack services from PyPI, in about two minutes
	@.venv/bin/python -m $(PYTEST) tests/services

# Without nova, whose installation takes minutes.
test-ceilometer: .venv/.made .venvs/ceilometer/.made brokers ## ceilometer reads from RabbitMQ what a bridge sends there, in half a minute
	@NOTIF_RELAYD_SERVICES=.venvs/ceilometer .venv/bin/python -m pytest -q \
		tests/services/test_ceilometer_bridge.py::test_no_event_is_lost_when_the_bridge_is_killed

SCRIPTS = devstack/settings $(wildcard .ci/run */*.sh */*/*.sh tests/systemd/inside/*.sh)

lint: DEB_PACKAGES += apparmor shellcheck
lint: .venv/.made ## ruff, mypy, import-linter, shellcheck, the compiler, AppArmor's parser and Ansible's syntax check
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy
	@out=$$(.venv/bin/lint-imports --no-logo) || { echo "$$out" >&2; exit 1; }
	@shellcheck $(SCRIPTS)
	@apparmor_parser --kernel-features /etc/apparmor.d/abi/3.0 --skip-kernel-load --skip-cache \
		debian/apparmor/notif-relayd
	@$(CXX) -fsyntax-only -std=c++17 -Wall -Wextra -Werror \
		$(addprefix -I,$(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')) \
		relayd/notif_relayd/*.cpp
	@LC_ALL=C.UTF-8 .venv/bin/ansible-playbook --syntax-check -i compute, packaging/ansible/relay.yml >/dev/null

bench: .venv/.made $(LOAD) ## compare the relay with other programs; QUICK=1, CHECK=1, FIGURES=
	@bench/install-peers.sh || true
	@($(call extra,bench,matplotlib; import zmq)) || true
	@status=0; .venv/bin/python bench/run.py --size $(if $(QUICK),quick,full) \
		$(if $(CHECK),--check) $(FIGURES) || status=1; \
	for each in $(if $(CHECK),,emit notify $(if $(QUICK),,filters payload groups subscribe hostile)); do \
		.venv/bin/python bench/$$each.py $(if $(QUICK),--rounds 5) || status=1; done; exit $$status

bench-check: .venv/.made $(LOAD) ## the part that needs no other program, against bench/baseline.json
	@.venv/bin/python bench/run.py --size cheap --check

bench-fleet: .venv/.made brokers ## hosts with bridges, RabbitMQ and a hub on this machine, for 12 minutes; HOSTS="10 25 50", FIGURES=directory
	@$(call extra,bench,matplotlib)
	@.venv/bin/python bench/fleet.py $(HOSTS) $(addprefix --figures ,$(FIGURES))

bench/build/load: $(wildcard bench/load/*.[ch])
bench/build/limit: bench/limit.c
$(LOAD): | packages
	@mkdir -p $(@D)
	@$(CC) -std=c11 -Wall -Wextra -Werror -O2 -o $@ $(filter %.c,$^)

fuzz: .venv/.made ## fuzz records, requests and state, SECONDS=60 each
	@$(call extra,fuzz,atheris)
	@for each in records requests state; do \
		.venv/bin/python tests/fuzz/run.py $$each --seconds $(or $(SECONDS),60) || exit 1; done

soak: .venv/.made ## reconnects, slow readers and restarts for MINUTES=10; draws soak.png
	@$(call extra,bench,matplotlib)
	@.venv/bin/python bench/soak.py --minutes $(or $(MINUTES),10)

soak-bridge: .venv/.made brokers ## account for the records of bridges to and from each broker while everything fails; SECONDS=60, SEED=
	@.venv/bin/python bench/soak_bridge.py --seconds $(or $(SECONDS),60) $(addprefix --seed ,$(SEED))

docs: man ## build HTML and man pages in docs/build
	@.venv/bin/sphinx-build $(SPHINX) -E -b html docs docs/build/html
	@echo "Pages: docs/build/html/index.html; man pages: docs/build/man"

man: .venv/.made ## build only the man pages; "make install" installs them
	@$(call extra,docs,furo)
	@.venv/bin/sphinx-build $(SPHINX) -b man -c docs -t man docs/man docs/build/man
	@command -v man >/dev/null || exit 0; for page in docs/build/man/*.[158]; do \
		wrong=$$(MANWIDTH=80 man --warnings -l "$$page" 2>&1 >/dev/null) || true; \
		[ -z "$$wrong" ] || { echo "$$page: $$wrong" >&2; exit 1; }; done

# After a change of the command line of a program.
completions: .venv/.made ## generate the completions for bash, zsh and fish again
	@$(call extra,completions,shtab)
	@.venv/bin/python packaging/completions.py

# -W: a warning is an error. -n: check every cross-reference. -E: Sphinx does not notice changed options
# and commands.
SPHINX = -q -W -n --keep-going

# Install the requirements of a single target, an extra in pyproject.toml. Use wheels only, so that no
# compiler is necessary.
extra = .venv/bin/python -c 'import $(2)' 2>/dev/null || \
	{ echo "Installing the requirements [$(1)] of pyproject.toml"; false; } || .venv/bin/pip install --disable-pip-version-check -q --only-binary :all: -e '.[$(1)]' || \
	{ echo "Cannot install $(2) for this Python: set PYTHON= to another one" >&2; exit 1; }

install: ## install units, users, samples, completions and man pages; DESTDIR=, PREFIX=, BINDIR=
	@install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysusers.d \
		$(DESTDIR)$(PREFIX)/lib/tmpfiles.d $(DESTDIR)$(SYSCONFDIR)/notif-relayd/bridge
	@install -m 644 systemd/*.socket systemd/*.service $(DESTDIR)$(PREFIX)/lib/systemd/system
	@for each in prometheus grafana; do \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/notif-relayd/$$each etc/$$each/* || exit 1; done
	@sed -i 's,^\(Exec[A-Z][a-z]*=\)\([a-z]\),\1$(BINDIR:%=%/)\2,' \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/notif-relayd*.service
	@install -m 644 systemd/sysusers.d/* $(DESTDIR)$(PREFIX)/lib/sysusers.d
	@install -m 644 systemd/tmpfiles.d/* $(DESTDIR)$(PREFIX)/lib/tmpfiles.d
	@install -m 644 etc/notif-relayd/relayd.conf.sample $(DESTDIR)$(SYSCONFDIR)/notif-relayd
	@install -m 644 etc/notif-relayd/logging.conf \
		$(DESTDIR)$(SYSCONFDIR)/notif-relayd/logging.conf.sample
	@install -m 644 etc/notif-relayd/bridge/NAME.conf.sample $(DESTDIR)$(SYSCONFDIR)/notif-relayd/bridge
	@share="$(DESTDIR)$(PREFIX)/share"; for program in notif-relayd notif-relayd-bridge relayctl; do \
		set -- $(COMPLETIONS)/$$program && \
		install -D -m 644 "$$1.bash" "$$share/bash-completion/completions/$$program" && \
		install -D -m 644 "$$1.fish" "$$share/fish/vendor_completions.d/$$program.fish" && \
		install -D -m 644 "$$1.zsh" "$(DESTDIR)$(ZSHDIR)/_$$program" || exit 1; done
	@for page in $(wildcard $(MAN)/*.[158]); do \
		install -D -m 644 "$$page" \
			"$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}" || exit 1; done
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemd-sysusers notif-relayd.conf notif-relayd-bridge.conf && \
		systemd-tmpfiles --create notif-relayd.conf notif-relayd-bridge.conf && \
		systemctl daemon-reload; fi

# Stop the units only if systemd has loaded them from PREFIX and not from a package. Install into a temporary
# directory to get the list of files. Files of the operator stay.
UNITS = $(filter-out %@.socket %@.service,$(notdir $(wildcard systemd/*.socket systemd/*.service)))
INSTANCES = systemctl list-units --all --plain --no-legend 'notif-relayd*@*' | cut -d ' ' -f 1
uninstall: ## stop the relay and bridges; remove the files of "make install" with the same settings, but not users and groups
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then for unit in $(UNITS) $$($(INSTANCES)); do \
		loaded=$$(systemctl show --value --property=FragmentPath $$unit) && \
		{ [ ! "$$loaded" -ef "$(PREFIX)/lib/systemd/system/$${loaded##*/}" ] || echo $$unit; } || exit 1; \
		done | xargs -r systemctl disable --now --quiet; fi
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && \
		$(MAKE) --no-print-directory install DESTDIR="$$made" && \
		find "$$made" -type f -printf '$(DESTDIR)/%P\0' | xargs -0 rm -f && \
		find "$$made" -depth -path "$$made/*/notif-relayd*" -type d -printf '$(DESTDIR)/%P\0' | \
			{ xargs -0 rmdir 2>/dev/null || true; }
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

# Build the wheel from the sdist, so that it cannot contain other files of this directory. setuptools needs
# no network. It writes to this directory while it builds the sdist, so a lock serializes concurrent builds.
DIST ?= dist
BUILD_PYTHON ?= .venv/bin/python
BUILD = $(abspath $(BUILD_PYTHON)) -c 'import sys; from setuptools import build_meta; \
	getattr(build_meta, sys.argv[1])(sys.argv[2])'
dist: $(if $(filter file,$(origin BUILD_PYTHON)),.venv/.made) ## build sdist and wheel in dist
	@mkdir -p $(DIST)
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && ( flock 9 && $(BUILD) build_sdist "$$work" && \
		tar -xf "$$work"/*.tar.gz -C "$$work" && cd "$$work"/*/ && \
		$(BUILD) build_wheel "$$work" ) 9<pyproject.toml >"$$work/log" 2>&1 || { cat "$$work/log" >&2; exit 1; }; \
		cp "$$work"/*.tar.gz "$$work"/*.whl $(DIST)

# Build in a separate Debian root directory: only what debian/control lists is available, and the host
# needs no package but mmdebstrap and systemd-container. systemd-nspawn of Debian 12 needs the unified cgroup
# hierarchy to work inside a container.
deb: $(ROOTS)/build.made ## build Debian packages for SUITE in dist and check them with lintian; requires root
	@echo "Building the packages for $(SUITE), which takes about half a minute; log: .debian/log"
	@mkdir -p $(DIST)
	@env -i PATH="$$PATH" SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=yes \
		systemd-nspawn --quiet --register=no --keep-unit --as-pid2 \
		--private-network --volatile=overlay -D $(ROOTS)/build --bind-ro=$(CURDIR):/opt/source --bind=$(abspath $(DIST)):/opt/out \
		--setenv=DEB_VERSION=$(DEB_VERSION) /opt/source/packaging/build.sh </dev/null >.debian/log 2>&1 || \
		{ cat .debian/log >&2; exit 1; }

test-deb: $(ROOTS)/container.made upgradable ## install, upgrade under load and purge the packages in a container; requires root
	@packaging/test.sh $(CURDIR)/$(ROOTS)/container $(CURDIR)/.debian/old $(CURDIR)/.debian/new

test-bare: $(ROOTS)/bare.made .venv/.made ## follow README.md literally on a bare Debian, SUITE=trixie or bookworm; requires root and a network
	@echo "Installing, upgrading and removing the relay in a container, which takes about 5 minutes"
	@SUITE=$(SUITE) .venv/bin/python -m pytest -q tests/bare

# The packages to upgrade to differ from the first ones only in their version.
upgradable:
	@rm -rf .debian/old .debian/new
	@$(MAKE) --no-print-directory deb DIST=.debian/old
	@$(MAKE) --no-print-directory deb DIST=.debian/new DEB_VERSION=$$(sed -n '1s/.*(\(.*\)).*/\1+upgrade/p' debian/changelog)

$(ROOTS)/%.made: debian/control packaging/root.sh
	@$(MAKE) --no-print-directory packages DEB_PACKAGES="mmdebstrap systemd-container"
	@echo "Installing Debian ($(SUITE)) into $(@D)/$*, which takes one to two minutes"
	@mkdir -p $(@D)
	@packaging/root.sh $(SUITE) $(@D)/$* $*
	@touch $@

clean: ## remove everything that make has created
	@rm -rf .venv .venvs .debian .promtool .syslog .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build bench/build dist docs/build *.egg-info \
		relayd/notif_relayd/*.so
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Query the packages each time, which takes milliseconds: a package may have been removed.
INSTALLED = $(patsubst installed:%,%,$(filter installed:%,$(shell \
	dpkg-query -W -f '$${db:Status-Status}:$${Package} ' $(DEB_PACKAGES) 2>/dev/null)))
MISSING = $(filter-out $(INSTALLED),$(DEB_PACKAGES))
SUDO = $(if $(filter-out 0,$(shell id -u)),sudo -n)

packages:
	@missing="$(strip $(MISSING))"; [ -z "$$missing" ] || { \
		$(SUDO) true 2>/dev/null || \
			{ echo "Missing packages (root is required to install them): $$missing" >&2; exit 1; }; \
		echo "Installing $$missing with apt-get"; \
		$(SUDO) apt-get update >/dev/null 2>&1 || true; \
		out=$$($(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -o DPkg::Lock::Timeout=120 \
			--no-install-recommends $$missing 2>&1) || { echo "$$out" >&2; exit 1; }; }

# oslo.messaging of Debian 12, with the other libraries of the same time (OpenStack Zed). It works with
# Python 3.10, although only 14.7 and newer declare it. This stevedore does not work with Python 3.12.
OLDEST = 14.0.0
OLDEST_BESIDE = oslo.config==9.0.0 oslo.context==5.0.0 oslo.log==5.0.0 oslo.metrics==0.5.0 \
	oslo.middleware==5.0.0 oslo.serialization==5.0.0 oslo.service==3.0.0 oslo.utils==6.0.0 \
	"stevedore==4.0.0;python_version<'3.12'"

# One environment for each Python, updated when pyproject.toml or the compiled module changes.
COMPILED = setup.py relayd/notif_relayd/_native.cpp
EXTRAS = daemon,test
.venv/.made: EXTRAS = daemon,test,lint,ansible
# Refuse a Python that is too old: pip would search for suitable requirements for minutes.
OLDEST_PYTHON = $(shell sed -n 's/^requires-python = ">=\(.*\)"$$/\1/p' pyproject.toml)
define check-python
version=$$($(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
printf '%s\n' $(OLDEST_PYTHON) "$$version" | sort -CV || { \
	echo "$(1) is Python $$version: set PYTHON= to Python $(OLDEST_PYTHON) or newer" >&2; exit 1; }
endef

THIS = -e '.$(EXTRAS:%=[%])'
define make-venv
@$(call check-python,$(1))
@echo "Creating $(@D) with pip, which takes one to two minutes; log: $(@D)/pip.log"
@$(1) -m venv $(@D)
@$(@D)/bin/pip install --disable-pip-version-check $(THIS) $(2) >$(@D)/pip.log 2>&1 || \
	{ cat $(@D)/pip.log; exit 1; }
@touch $@
endef

# Check the version before anything is installed. If there is no Python yet, the packages install it.
supported:
	@! command -v $(PYTHON) >/dev/null || { $(call check-python,$(PYTHON)); }

.venv/.made: pyproject.toml $(COMPILED) | supported packages
	$(call make-venv,$(PYTHON))

.venvs/oldest/.made: pyproject.toml Makefile $(COMPILED) | supported packages
	$(call make-venv,$(PYTHON),oslo.messaging==$(OLDEST) $(OLDEST_BESIDE))

.venvs/services/.made: EXTRAS =
.venvs/services/.made: pyproject.toml Makefile $(COMPILED) | supported packages
	$(call make-venv,$(PYTHON),$(SERVICES))

# Exactly the releases that the test has run with, so that a new one cannot make .ci/run fail.
.venvs/ceilometer/.made: THIS = -c tests/services/ceilometer.txt
.venvs/ceilometer/.made: tests/services/ceilometer.txt | supported packages
	$(call make-venv,$(PYTHON),$(CEILOMETER))

# Samples of notifications, which are in nova's sources but not in the wheel.
.venvs/services/samples: .venvs/services/.made
	@cd $(@D) && rm -rf sources samples && { bin/pip download --disable-pip-version-check --no-deps \
		--no-binary nova -d sources nova==$$(bin/python -c \
		'from importlib.metadata import version; print(version("nova"))') >>pip.log 2>&1 || \
		{ cat pip.log; exit 1; }; } && mkdir samples && tar -xf sources/nova-*.tar.gz -C samples \
		--strip-components=3 --wildcards '*/doc/notification_samples' && rm -r sources

.venvs/%/.made: pyproject.toml $(COMPILED)
	$(call make-venv,$(call interpreter,$*))

# The first Python of version $(1) that works. The shims of pyenv are in the path but may not work.
interpreter = $(shell for python in python$(1) $(HOME)/.pyenv/versions/$(1).*/bin/python; do \
	"$$python" -c 'import ensurepip' 2>/dev/null && echo "$$python" && break; done)
FOUND = $(foreach version,$(PYTHONS),$(if $(call interpreter,$(version)),$(version)))

# Extract promtool from its package without installing the package: in Debian 12 and Ubuntu 24.04 it is part
# of the package prometheus, whose service would start. If it is not available, the tests that need it are
# skipped with the reason.
.promtool/promtool: | packages
	@echo "Fetching promtool with apt-get; log: $(@D)/apt.log"
	@mkdir -p $(@D)
	@cd $(@D) && { $(call download-promtool) || { $(SUDO) apt-get update && $(call download-promtool); }; } \
		>apt.log 2>&1 && dpkg-deb --fsys-tarfile prom*.deb | tar -x --strip-components=3 ./usr/bin/promtool && \
		rm prom*.deb || echo "Cannot get promtool; see $(@D)/apt.log" >&2
download-promtool = { apt-get download promtool || apt-get download prometheus; }

# Extract rsyslog and syslog-ng without installing them. Tests that need one that is not available are skipped with the
# reason.
.syslog/.made: tests/support/fetch-syslog.sh | packages
	@echo "Fetching rsyslog and syslog-ng with apt-get; log: $(@D)/apt.log"
	@mkdir -p $(@D)
	@{ $< $(@D) || { $(SUDO) apt-get update && $< $(@D); }; } >$(@D)/apt.log 2>&1 && touch $@ || \
		echo "Cannot get rsyslog and syslog-ng; see $(@D)/apt.log" >&2

.PRECIOUS: .venvs/%/.made
test-on-%: .venvs/%/.made FORCE
	@echo "Python $*"
	@.venvs/$*/bin/python -m $(PYTEST) $(SUITES)

test-on-none:
	@echo "No Python of these versions was found: $(PYTHONS)" >&2; exit 1
