#!/bin/bash

# The tools, which need nothing of nginx: build/cdm-stop-audit, or, with the
# argument "coverage", one of that name in build/coverage which counts what
# it runs
#
# CC, CPPFLAGS, CFLAGS and LDFLAGS may add to what is below.

. "$(dirname "$0")/common.sh"

lock

out=$build/cdm-stop-audit

if test "${1:-}" = coverage; then
    mkdir -p "$build/coverage"
    quietly clang -std=gnu11 -g -O1 $coverage -I"$root/src/tools" \
        -o "$build/coverage/cdm-stop-audit" "$root"/src/tools/*.c \
        -ljansson -lcrypto
    exit 0
fi

if test -f "$out" && test -z "$(find "$root/src/tools" "$0" -newer "$out" \
    -print -quit)"
then
    exit 0
fi

quietly ${CC:-cc} -std=gnu11 -g -O2 -Wall -Wextra -Werror -Wformat=2 -Wshadow \
    -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wlogical-op \
    -fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=2 \
    -fPIE -pie -Wl,-z,relro -Wl,-z,now -ffile-prefix-map="$root"=. \
    ${CPPFLAGS:-} ${CFLAGS:-} ${LDFLAGS:-} -I"$root/src/tools" \
    -o "$out.made" "$root"/src/tools/*.c \
    -ljansson -lcrypto

publish "$out.made" "$out"
touch "$out"
rm -f "$out.made"
