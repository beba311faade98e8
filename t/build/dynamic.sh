#!/bin/bash

# The dynamic module for the installed nginx, with Debian's nginx-dev:
# build/dynamic/ngx_http_cdm_stop_module.so

. "$(dirname "$0")/common.sh"

dev=/usr/share/nginx/src
src=$build/src/nginx-dev
objs=$build/obj/dynamic

test -f $dev/conf_flags || fail "nginx-dev is not installed: run make deps"
test -f "$root/config" || fail "there is no config script in $root"

lock

# configure writes into its tree, so the headers are used from a copy

version=$(dpkg-query -W -f '${Version}' nginx-dev)

if test "$(cat "$src/.version" 2>/dev/null)" != "$version"; then
    rm -rf "$src" "$objs"
    mkdir -p "$build/src"
    cp -r $dev "$src"
    echo "$version" >"$src/.version"
fi

. "$src/conf_flags"

# on top of nginx's own -W -Wall -Wno-unused-parameter -Werror; here only the
# module's files are compiled

strict="-Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition"
strict="$strict -Wvla -Wformat=2 -Wshadow -Wlogical-op -Wduplicated-cond"

cc_opt="-g -O2 -fPIC -fstack-protector-strong -D_FORTIFY_SOURCE=2"

configure_and_make "$objs" "$src" modules \
    --with-cc-opt="$cc_opt -ffile-prefix-map=$root=." \
    --with-ld-opt="-Wl,-z,relro -Wl,-z,now -fPIC" \
    "${NGX_CONF_FLAGS[@]}" \
    --add-dynamic-module="$root"

publish "$objs/$module.so" "$build/dynamic/$module.so"
