# Copyright (C) 2026 the ngx_http_cdm_stop_module authors

# The tools of the build are in t/build; "make help" lists the goals.

OLD = 1.22.1
STABLE = 1.26.3

MODULE = $(CURDIR)/build/dynamic/ngx_http_cdm_stop_module.so

JOBS ?= $(shell nproc)
TESTS ?= t
FUZZ_TIME ?= 60

# seconds of a soak; with SOAK_SEED one is repeated
SOAK_SECONDS ?= 1800

# what the builds that few people have are tested with: some tests of each part
# of the sources; CORE=t for all
CORE ?= t/inject.t t/target.t t/headers.t t/method.t t/body.t t/client_left.t \
	t/policy.t t/reason.t t/rate.t t/verify.t t/verdict.t t/records.t \
	t/chain.t t/recovery.t t/outage.t t/status.t t/tls.t

# these need HTTP/2
HTTP2 = t/client_left.t t/recovery.t t/tls.t

# under valgrind, where a request takes 20 times as long
MEMCHECK ?= t/inject.t t/method.t t/policy.t t/reason.t t/records.t \
	t/status.t t/verdict.t t/verify.t t/recovery.t t/outage.t t/chain.t

# no test file may take longer than this, in seconds
TEST_LIMIT ?= 900

PROVE = t/build/suite prove --jobs $(JOBS) --timer --recurse \
	--exec "timeout --foreground --kill-after=20 $(TEST_LIMIT) perl -It/lib"

SANITIZE = \
	ASAN_OPTIONS=detect_odr_violation=0:abort_on_error=0 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	LSAN_OPTIONS=suppressions=$(CURDIR)/t/build/lsan.supp:print_suppressions=0

export JOBS V

.PHONY: all deps deps-demo deps-test deps-scale deps-bench deps-static \
	deps-asan deps-lint deps-valgrind deps-all static asan variants test \
	test-asan test-variants test-nothreads test-nohttp2 test-clang \
	valgrind test-all style lint keystone clients page screenshots scale \
	fuzz bench bench-doc soak fuzz-coverage coverage demo run deb \
	deb-test clean help FORCE

# goals are cheap to repeat and some of them share a directory
.NOTPARALLEL:


all: deps
	@t/build/dynamic.sh
	@t/build/tools.sh

deps:
	@t/build/deps.sh build

deps-demo:
	@t/build/deps.sh build demo

deps-test:
	@t/build/deps.sh build test browser monitoring valgrind bench

deps-scale:
	@t/build/deps.sh build test valgrind

deps-bench:
	@t/build/deps.sh build test valgrind bench

deps-static:
	@t/build/deps.sh build static

deps-asan:
	@t/build/deps.sh build test browser monitoring bench asan

deps-lint:
	@t/build/deps.sh build static asan lint

deps-valgrind:
	@t/build/deps.sh build test static valgrind

deps-all:
	@t/build/deps.sh build test browser monitoring bench static asan \
		keystone lint valgrind clients
	@t/build/clients.sh

static: deps-static
	@t/build/static.sh plain $(OLD)
	@t/build/static.sh plain $(STABLE)

static-%: deps-static FORCE
	@t/build/static.sh plain $*

asan: asan-$(OLD)

asan-%: deps-asan FORCE
	@t/build/static.sh asan $*

variants: deps-asan
	@t/build/static.sh nothreads $(OLD)
	@t/build/static.sh nohttp2 $(STABLE)
	@t/build/static.sh clang $(OLD)


test: deps-test all
	@TEST_NGINX_MODULE=$(MODULE) $(PROVE) $(TESTS)

test-asan: test-asan-$(OLD)

test-asan-%: asan-% all FORCE
	@t/build/tools.sh
	@$(SANITIZE) TEST_NGINX_MODULE= \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-asan-$*/nginx \
		$(PROVE) $(TESTS)

test-static-%: deps-test static-% FORCE
	@t/build/tools.sh
	@TEST_NGINX_MODULE= \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-$*/nginx \
		$(PROVE) $(TESTS)

test-variants: test-nothreads test-nohttp2 test-clang

test-nothreads: deps-test variants
	@TEST_NGINX_MODULE= \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-nothreads-$(OLD)/nginx \
		$(PROVE) $(CORE)

test-nohttp2: deps-test variants
	@TEST_NGINX_MODULE= \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-nohttp2-$(STABLE)/nginx \
		$(PROVE) $(filter-out $(HTTP2),$(CORE))

test-clang: deps-test variants
	@TEST_NGINX_MODULE= \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-clang-$(OLD)/nginx \
		$(PROVE) $(CORE)

valgrind: deps-valgrind
	@t/build/static.sh valgrind $(OLD)
	@TEST_NGINX_MODULE= \
		TEST_NGINX_SUPPRESSIONS=$(CURDIR)/t/build/valgrind.supp \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-valgrind-$(OLD)/nginx \
		$(PROVE) $(MEMCHECK)

test-all: deps-all style lint test test-asan test-static-$(OLD) \
	test-static-$(STABLE) test-variants valgrind fuzz

style: deps-test all
	@prove -It/lib t/style.t

lint: deps-lint all
	@t/build/lint $(PARTS)

keystone: deps-test
	@t/build/deps.sh keystone
	@$(MAKE) --no-print-directory test \
		TESTS="t/keystone.t t/keystone_verify.t"

clients: deps-test
	@t/build/deps.sh keystone clients
	@t/build/clients.sh
	@$(MAKE) --no-print-directory test TESTS="t/clients_curl.t \
		t/clients_keystoneauth.t t/clients_node.t"

page:
	@t/build/page.pl

screenshots:
	@t/build/deps.sh build test browser screenshots
	@t/screenshots

scale: deps-scale all
	@t/bench/scale --img=docs/img --doc=docs/SCALE.md --note="$(NOTE)"

fuzz: deps-asan
	@t/build/fuzz.sh $(FUZZ_TIME)

bench: deps-bench all
	@TEST_NGINX_MODULE=$(MODULE) perl -It/lib t/bench/compare \
		$(if $(BENCH_TLS),--tls) $(BENCH_FLAGS)

bench-doc:
	@perl -It/lib t/bench/compare --report --doc=docs/PERFORMANCE.md

soak: asan all
	@$(SANITIZE) TEST_NGINX_MODULE= \
		TEST_NGINX_BINARY=$(CURDIR)/build/nginx-asan-$(OLD)/nginx \
		SOAK_SECONDS=$(SOAK_SECONDS) SOAK_SEED=$(SOAK_SEED) t/soak

fuzz-coverage: deps-asan
	@t/build/fuzz.sh --coverage

coverage: deps-asan
	@t/build/coverage.sh


demo: deps-demo all
	@t/demo

run: deps-demo all
	@t/demo --run

deb:
	@t/build/deps.sh build deb
	@t/build/deb.sh

deb-test: deb
	@t/build/deps.sh deb-test
	@t/build/deb_test

clean:
	rm -rf build

help:
	@echo "make              the dynamic module for the installed nginx"
	@echo "make demo         shows one stop from the call to the records"
	@echo "make run          the gateway of the demo, in the foreground"
	@echo "make test         all tests; TESTS=t/target.t for one"
	@echo "make test-asan    the same under AddressSanitizer and UBSan"
	@echo "make test-static-VERSION"
	@echo "                  the same with nginx $(OLD) or $(STABLE), linked in"
	@echo "make test-variants"
	@echo "                  some on nginx without threads, without HTTP/2, by"
	@echo "                  clang; CORE=t for all of them"
	@echo "make valgrind     some under valgrind's memcheck; MEMCHECK=t/target.t"
	@echo "make test-all     every test on every build"
	@echo "make lint         gcc, clang, -fanalyzer, clang-tidy, cppcheck,"
	@echo "                  shellcheck, perlcritic; PARTS=tidy for one of them"
	@echo "make keystone     the test against a real OpenStack Keystone"
	@echo "make clients      stops by curl, Huawei's SDK and keystoneauth1"
	@echo "make fuzz         each fuzz target for FUZZ_TIME seconds"
	@echo "make scale        how the cost of a stop grows, as charts"
	@echo "make bench        the benchmark; BENCH_TLS=1: with TLS as well"
	@echo "make bench-doc    its tables and charts into docs/PERFORMANCE.md"
	@echo "make soak         mixed load for SOAK_SECONDS, drawn from SOAK_SEED"
	@echo "make fuzz-coverage"
	@echo "                  the lines that the seeds of each target reach"
	@echo "make coverage     the lines that the suite runs, and why not others"
	@echo "make page         the status page, of src/page"
	@echo "make screenshots  pictures of it in docs/img"
	@echo "make deb          Debian packages, in build/deb"
	@echo "make deb-test     the same, used on a bare Debian 12; as root"
	@echo "make style        the style of the sources"
	@echo "make deps         installs the Debian packages that are missing"
	@echo "make deps-all     the same, for all of the above"
	@echo "make static asan variants"
	@echo "                  builds alone, without tests"
	@echo "make clean        removes build/"
	@echo
	@echo "V=1 shows the commands of a build, JOBS=n runs n of them at a time."
