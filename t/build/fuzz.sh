#!/bin/bash

# Builds every t/fuzz/NAME.c with libFuzzer, ASan and UBSan and runs each for
# some time:  fuzz.sh SECONDS [NAME...]
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
shift || true

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

flags="-g -O1 -W -Wall -Wno-unused-parameter -Werror -DNGX_DEBUG_PALLOC=1
    -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer -fsanitize-ignorelist=$root/t/build/ubsan.ignore
    -I$root/src -I$objs"

for d in core event event/modules os/unix http http/modules http/v2; do
    flags="$flags -I$src/src/$d"
done

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
    if ! newer "$out/$name" "$root/t/fuzz/$name.c" "$core" "$own"; then
        clang $flags -fsanitize=fuzzer -o "$out/$name" \
            "$root/t/fuzz/$name.c" "$own" "$core" "$own" "$core" $libs
    fi
done

exec 9>&-


# the run, as many at a time as there are processors

run() {
    local name=$1 log=$out/$1.log dict=

    mkdir -p "$out/$name.corpus" "$out/$name.none"
    test ! -f "$root/t/fuzz/$name.dict" || dict="-dict=$root/t/fuzz/$name.dict"

    seeds=$root/t/fuzz/$name.seeds
    test -d "$seeds" || seeds=$out/$name.none

    if ASAN_OPTIONS=detect_odr_violation=0 \
        UBSAN_OPTIONS=print_stacktrace=1 \
        LSAN_OPTIONS=print_suppressions=0 \
        "$out/$name" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 $dict \
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
