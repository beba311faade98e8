# Shared by the build scripts: paths, messages, one build at a time.

set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build
jobs=${JOBS:-$(nproc)}

module=ngx_http_cdm_stop_module

# files whose content decides that nginx must be configured again
recipe="$root/config $root/t/build/common.sh $0"

# for clang, to count what is run, see coverage.sh
coverage="-fprofile-instr-generate=$build/coverage/%m%c.profraw
    -fcoverage-mapping -mllvm -runtime-counter-relocation"
coverage=$(echo $coverage)

# set by a script: flags for the compilation that configure's own tests and
# nginx's own sources would not bear
strict=


say() {
    test -n "${QUIET:-}" || echo "$*"
}


fail() {
    echo "$0: error: $*" >&2
    exit 1
}


# runs a command silently; shows what it printed only if it fails
quietly() {
    if test -n "${V:-}"; then
        "$@"
        return
    fi

    log=$(mktemp)

    if "$@" >"$log" 2>&1; then
        rm -f "$log"
        return
    fi

    echo "$0: error: failed: $*" >&2
    tail -n 60 "$log" >&2
    rm -f "$log"
    exit 1
}


# only one build in a tree at a time
lock() {
    mkdir -p "$build"
    exec 9>"$build/.lock"
    flock 9
}


# replaces a file only if it differs, and never under a running process
publish() {
    mkdir -p "$(dirname "$2")"

    if ! cmp -s "$1" "$2"; then
        cp -p "$1" "$2.new"
        mv -f "$2.new" "$2"
        say "built ${2#"$root"/}"
    fi
}


# configure_and_make OBJS SOURCE GOAL CONFIGURE-ARGUMENT...
#
# Runs nginx's configure in SOURCE when the arguments or the recipe changed,
# then make.  A configure that finds the same system as before leaves
# objects valid, so a new file in "config" costs the compilation of that file.

configure_and_make() {
    objs=$1
    src=$2
    goal=$3
    shift 3

    args=$(printf '%s\n' "$@" "$src")
    sums=$(cat $recipe | sha256sum)

    if test "$(cat "$objs/.args" 2>/dev/null)" != "$args"; then
        rm -rf "$objs"
    fi

    if test "$(cat "$objs/.recipe" 2>/dev/null)" != "$sums"; then
        rm -rf "$objs.old"
        mkdir -p "$objs" "$objs.old"
        rm -f "$objs/.recipe"

        for f in ngx_auto_config.h ngx_auto_headers.h; do
            test ! -f "$objs/$f" || cp -p "$objs/$f" "$objs.old/$f"
        done

        cd "$src"
        quietly ./configure --builddir="$objs" "$@"
        cd "$root"

        for f in ngx_auto_config.h ngx_auto_headers.h; do
            if cmp -s "$objs.old/$f" "$objs/$f"; then
                cp -p "$objs.old/$f" "$objs/$f"
            fi
        done

        test -z "$strict" \
            || sed -i "s|^CFLAGS = .*|& $strict|" "$objs/Makefile"

        rm -rf "$objs.old"
        printf '%s\n' "$args" >"$objs/.args"
        printf '%s\n' "$sums" >"$objs/.recipe"
    fi

    if test -n "${V:-}"; then
        make -C "$src" -f "$objs/Makefile" -j "$jobs" "$goal"
    else
        make -s -C "$src" -f "$objs/Makefile" -j "$jobs" "$goal" \
            MAKEFLAGS= >/dev/null
    fi
}
