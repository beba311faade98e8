#!/bin/bash

# What the suite runs of the sources:  coverage.sh [TESTS...]
#
# nginx and cdm-stop-audit are built to count, the tests run with them, and
# coverage.pl tells what was not run and why.  With "--report" alone, the
# figures of the last run are told again.

. "$(dirname "$0")/common.sh"

version=1.22.1
limit=${COVERAGE_LIMIT:-90}
dir=$build/coverage
nginx=$build/nginx-coverage-$version/nginx
audit=$build/cdm-stop-audit


report() {
    llvm-profdata merge -sparse -o "$dir/suite.profdata" "$dir"/*.profraw
    llvm-cov export -format=lcov -instr-profile="$dir/suite.profdata" \
        "$nginx" -object "$dir/cdm-stop-audit" >"$dir/suite.lcov"
    "$(dirname "$0")/coverage.pl" --limit="$limit" ${MISSED:+--verbose} \
        "$dir/suite.lcov"
}


if test "${1:-}" = --report; then
    report
    exit
fi

"$(dirname "$0")/static.sh" coverage $version
"$(dirname "$0")/tools.sh"
"$(dirname "$0")/tools.sh" coverage

rm -f "$dir"/*.profraw

# the tests find the tool there; afterwards it is the real one again

cp -p "$audit" "$dir/cdm-stop-audit.real"
trap 'cp -p "$dir/cdm-stop-audit.real" "$audit"' EXIT
cp "$dir/cdm-stop-audit" "$audit"

# whoever begins makes the files, and others have to write to them

"$nginx" -v 2>"$dir/version"
"$audit" --version >>"$dir/version"
chmod 0666 "$dir"/*.profraw

cd "$root"

# all but those of the object that is delivered, and of the text of the sources

test $# -gt 0 || set -- $(ls t/*.t | grep -v -e /object -e /style)

TEST_NGINX_MODULE='' TEST_NGINX_BINARY=$nginx \
    prove --jobs "$jobs" --timer \
        --exec "timeout --foreground --kill-after=20 900 perl -It/lib" "$@" \
    || tests=failed

report

test -z "${tests:-}" || fail "tests failed"
