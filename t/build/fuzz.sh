#!/bin/bash

# Builds every t/fuzz/NAME.c with libFuzzer, ASan and UBSan and runs each for
# some time:  fuzz.sh SECONDS [NAME...]
#
# fuzz.sh --coverage [NAME...]  runs each with its seeds alone, and tells how
# many lines of the sources that it is for, see t/fuzz/sources, these reach.
#
# A target defines LLVMFuzzerTestOneInput() and may call any function of the
# module or of nginx, or include a file of src/ to reach its statics.  What
# it links with comes from the sanitizer build; the module's own files are
# compiled again, for their coverage to be seen.
#
#   t/fuzz/NAME.seeds/   inputs to begin with, each of them is tried first
#   t/fuzz/NAME.dict     words of the format
#
# An input that fails is left in build/fuzz: put it into NAME.seeds.

. "$(dirname "$0")/common.sh"

version=1.22.1
seconds=${1:-60}
measure=
shift || true

if test "$seconds" = --coverage; then
    measure=1
fi

names=$*
test -n "$names" || names=$(cd "$root/t/fuzz" 2>/dev/null \
    && ls -- *.c | sed 's/\.c$//')
test -n "$names" || fail "there is no target in t/fuzz"

"$(dirname "$0")/static.sh" asan $version

lock

src=$build/src/nginx-$version
objs=$build/obj/asan-$version
dir=$build/obj/fuzz
out=$build/fuzz

if test -n "$measure"; then
    dir=$build/obj/fuzz-coverage
    out=$build/fuzz-coverage
fi

flags="-g -O1 -W -Wall -Wno-unused-parameter -Werror -DNGX_DEBUG_PALLOC=1
    -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer -fsanitize-ignorelist=$root/t/build/ubsan.ignore
    -I$root/src -I$objs"

for d in core event event/modules os/unix http http/modules http/v2; do
    flags="$flags -I$src/src/$d"
done

# memory that nginx itself does not free, see there
lsan=suppressions=$root/t/build/lsan.supp:print_suppressions=0

test -z "$measure" \
    || flags="$flags -fprofile-instr-generate -fcoverage-mapping"

mkdir -p "$dir" "$out"


# newer FILE THAN...: whether the first is there and newer than all the others
newer() {
    local target=$1 f
    shift

    test -f "$target" || return 1

    for f; do
        test "$target" -nt "$f" || return 1
    done
}


# nginx, with its main() out of the way

core=$dir/libnginx.a

if ! newer "$core" "$objs/nginx" "$0"; then
    clang $flags -w -Dmain=ngx_fuzz_main -c -o "$dir/nginx.o" \
        "$src/src/core/nginx.c"
    rm -f "$core"
    find "$objs" -name '*.o' ! -path "$objs/src/core/nginx.o" \
        ! -path "$objs/addon/*" -print0 | sort -z \
        | xargs -0 ar rcs "$core" "$dir/nginx.o"
fi


# the module

own=$dir/libmodule.a
stale=

for c in "$root"/*.c "$root"/src/*.c; do
    o=$dir/$(basename "$c" .c).o
    newer "$o" "$c" "$root"/src/*.h "$0" "$objs/ngx_auto_config.h" \
        || stale="$stale $c"
done

compile() {
    clang $flags -fsanitize=fuzzer-no-link -c \
        -o "$dir/$(basename "$1" .c).o" "$1"
}

for c in $stale; do
    while test "$(jobs -rp | wc -l)" -ge "$jobs"; do
        wait -n || true
    done

    rm -f "$dir/$(basename "$c" .c).o"
    compile "$c" &
done

wait
rm -f "$own"

for c in "$root"/*.c "$root"/src/*.c; do
    o=$dir/$(basename "$c" .c).o
    newer "$o" "$c" || exit 1
    ar rcs "$own" "$o"
done

libs=$(sed -n 's/^\t\(.*-lcrypto.*\)\\$/\1/p' "$objs/Makefile" | head -n 1)
libs=${libs:--ldl -lpthread -lcrypt -lpcre2-8 -lssl -lcrypto -ljansson -lz}

for name in $names; do
    if ! newer "$out/$name" "$root/t/fuzz/$name.c" "$root"/t/fuzz/*.h \
        "$core" "$own"
    then
        clang $flags -fsanitize=fuzzer -o "$out/$name" \
            "$root/t/fuzz/$name.c" "$own" "$core" "$own" "$core" $libs
    fi
done

exec 9>&-


# the seeds alone, once, and what they reach

reach() {
    local name=$1 of

    of=$(sed -n "s/^$name:  *//p" "$root/t/fuzz/sources")
    test -n "$of" || fail "t/fuzz/sources has no sources of $name"

    rm -f "$out/$name.profraw"

    ASAN_OPTIONS=detect_odr_violation=0 \
        LSAN_OPTIONS=$lsan \
        LLVM_PROFILE_FILE="$out/$name.profraw" \
        "$out/$name" -runs=0 -artifact_prefix="$out/$name-" \
        "$root/t/fuzz/$name.seeds" \
        >"$out/$name.log" 2>&1 \
        || { tail -n 60 "$out/$name.log"; fail "fuzz $name failed"; }

    llvm-profdata merge -sparse -o "$out/$name.profdata" \
        "$out/$name.profraw"
    llvm-cov export -format=lcov -instr-profile="$out/$name.profdata" \
        "$out/$name" >"$out/$name.lcov" 2>>"$out/$name.log"

    echo "fuzz $name"
    "$(dirname "$0")/coverage.pl" ${MISSED:+--verbose} \
        $(printf ' --of=%s' $of) "$out/$name.lcov"
}

if test -n "$measure"; then
    failed=

    for name in $names; do
        reach "$name" || failed=1
    done

    test -z "$failed" || fail "too little is reached, see docs/TESTING.md"
    exit 0
fi


# the run, as many at a time as there are processors

run() {
    local name=$1 log=$out/$1.log dict='' leaks=''

    mkdir -p "$out/$name.corpus" "$out/$name.none"
    test ! -f "$root/t/fuzz/$name.dict" || dict="-dict=$root/t/fuzz/$name.dict"

    # what nginx keeps of a configuration until the next one makes libFuzzer
    # look for leaks after each input; it still does so at the end

    ! grep -q '"cycle.h"' "$root/t/fuzz/$name.c" || leaks=-detect_leaks=0

    seeds=$root/t/fuzz/$name.seeds
    test -d "$seeds" || seeds=$out/$name.none

    if ASAN_OPTIONS=detect_odr_violation=0 \
        UBSAN_OPTIONS=print_stacktrace=1 \
        LSAN_OPTIONS=$lsan \
        "$out/$name" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 $dict $leaks \
        -artifact_prefix="$out/$name-" "$out/$name.corpus" "$seeds" \
        >"$log" 2>&1
    then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "fuzz $name: ok, $runs inputs"
        touch "$out/$name.ok"
    else
        tail -n 60 "$log"
        echo "fuzz $name: FAILED, see ${log#"$root"/}"
    fi
}

for name in $names; do
    while test "$(jobs -rp | wc -l)" -ge "$jobs"; do
        wait -n || true
    done

    rm -f "$out/$name.ok"
    run "$name" &
done

wait

for name in $names; do
    test -f "$out/$name.ok"
done
