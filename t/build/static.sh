#!/bin/bash

# nginx with the module linked in:  static.sh FLAVOUR VERSION
#
#   plain        build/nginx-VERSION/nginx
#   asan         build/nginx-asan-VERSION/nginx, clang with ASan and UBSan
#   nothreads    build/nginx-nothreads-VERSION/nginx, no threads, no debug log
#   nohttp2      build/nginx-nohttp2-VERSION/nginx, no HTTP/2
#   clang        build/nginx-clang-VERSION/nginx, hardened as plain, by clang
#   valgrind     build/nginx-valgrind-VERSION/nginx, which runs under memcheck
#   coverage     build/nginx-coverage-VERSION/nginx, clang, counts what it runs

. "$(dirname "$0")/common.sh"

test $# = 2 || fail "usage: $0 FLAVOUR VERSION"

flavour=$1
version=$2

test -f "$root/config" || fail "there is no config script in $root"

"$(dirname "$0")/source.sh" "$version"

src=$build/src/nginx-$version
objs=$build/obj/$flavour-$version
out=$build/nginx-$flavour-$version
recipe="$recipe $root/t/build/ubsan.ignore"

debug=--with-debug
threads=--with-threads
http2=--with-http_v2_module
map="-ffile-prefix-map=$root=."
cc=cc
cc_opt="-g -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2"

# bound at load, as Debian's nginx is: the loader, when it looks a name up
# later, saves the registers on the stack, with what memcpy() left in them

bound="-Wl,-z,relro -Wl,-z,now"
ld_opt=$bound

case $flavour in

plain)
    out=$build/nginx-$version
    ;;

asan)
    # no sanitizer error is survived; the undefined behaviour known in
    # nginx itself is listed in ubsan.ignore, our files are checked for all

    cc=clang
    sanitize="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    sanitize="$sanitize -fno-omit-frame-pointer"
    cc_opt="-g -O1 $sanitize -DNGX_DEBUG_PALLOC=1"
    cc_opt="$cc_opt -fsanitize-ignorelist=$root/t/build/ubsan.ignore"
    ld_opt="$bound $sanitize"
    ;;

nothreads)
    threads=
    debug=
    ;;

nohttp2)
    http2=
    ;;

clang)
    cc=clang
    ;;

valgrind)
    # Each piece of a pool is a piece of the heap, so that what is behind it is
    # watched.  Titles of processes are in the name of the thread as well: what
    # ps shows belongs to valgrind.

    title=$build/obj/proctitle.o
    cc_opt="-g -O1 -fno-omit-frame-pointer -DNGX_DEBUG_PALLOC=1"
    cc_opt="$cc_opt -DNGX_VALGRIND=1"
    ld_opt="$bound -Wl,--wrap=ngx_setproctitle $title"
    recipe="$recipe $root/t/build/proctitle.c"
    ;;

coverage)
    # the counters are in a shared mapping of a file, so that a worker may end
    # as it likes, and as another user; all processes add to the same file

    cc=clang
    cc_opt="-g -O1 $coverage"
    ld_opt="$bound -fprofile-instr-generate"
    map=
    ;;

*)
    fail "unknown flavour \"$flavour\""
    ;;

esac

lock

if test "$flavour" = valgrind; then
    mkdir -p "$build/obj"
    quietly cc -O -Wall -Wextra -Werror -c -o "$title" \
        "$root/t/build/proctitle.c"
fi

configure_and_make "$objs" "$src" build \
    --with-cc="$cc" \
    --with-cc-opt="$cc_opt $map" \
    --with-ld-opt="$ld_opt" \
    --prefix=/usr/share/nginx \
    --conf-path=/etc/nginx/nginx.conf \
    --error-log-path=stderr \
    --http-log-path=/var/log/nginx/access.log \
    --pid-path=/run/nginx.pid \
    --lock-path=/var/lock/nginx.lock \
    --http-client-body-temp-path=/var/lib/nginx/body \
    --http-proxy-temp-path=/var/lib/nginx/proxy \
    --without-http_fastcgi_module \
    --without-http_uwsgi_module \
    --without-http_scgi_module \
    --without-http_memcached_module \
    --without-http_browser_module \
    --without-http_autoindex_module \
    --with-compat \
    --with-pcre-jit \
    --with-http_ssl_module \
    --with-http_stub_status_module \
    --with-http_realip_module \
    --with-http_auth_request_module \
    --with-http_dav_module \
    --with-http_slice_module \
    --with-http_addition_module \
    --with-http_sub_module \
    --with-http_gunzip_module \
    --with-http_gzip_static_module \
    --with-http_secure_link_module \
    $debug $threads $http2 \
    --add-module="$root"

if test "$flavour" = valgrind; then
    publish "$objs/nginx" "$out/nginx.real"
    publish "$root/t/build/memcheck" "$out/nginx"
else
    publish "$objs/nginx" "$out/nginx"
fi
