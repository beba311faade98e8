#!/bin/bash

# Installs the Debian packages that a group of goals needs and that are
# missing:  deps.sh GROUP...; the groups are below.
#
# With everything in place this takes no time and no network.

. "$(dirname "$0")/common.sh"

packages=

for group; do
    case $group in
    build)
        packages="$packages gcc make libc6-dev nginx nginx-dev libssl-dev
            libpcre2-dev zlib1g-dev libjansson-dev"
        ;;
    demo)
        packages="$packages perl curl openssl ca-certificates
            libio-socket-ssl-perl"
        ;;
    test)
        packages="$packages perl curl openssl ca-certificates
            libio-socket-ssl-perl nghttp2-client libfaketime bsdutils logrotate
            haproxy jq"
        ;;
    browser)
        packages="$packages chromium chromium-driver fonts-dejavu-core"
        ;;
    monitoring)
        packages="$packages prometheus"
        ;;
    screenshots)
        packages="$packages fonts-inter fonts-noto-cjk pngquant"
        ;;
    valgrind)
        packages="$packages valgrind libc6-dbg"
        ;;
    bench)
        packages="$packages gcc libc6-dev libssl-dev nginx haproxy
            libnginx-mod-http-lua lua-cjson strace"
        ;;
    static)
        packages="$packages dpkg-dev"
        ;;
    asan)
        packages="$packages dpkg-dev clang libclang-rt-dev llvm"
        ;;
    lint)
        packages="$packages clang-tidy cppcheck shellcheck
            libperl-critic-perl"
        ;;
    keystone)
        packages="$packages python3-keystone uwsgi-plugin-python3"
        ;;
    clients)
        packages="$packages python3-keystoneauth1"

        # another Node than Debian's will do, and forbids Debian's npm
        command -v npm >/dev/null || packages="$packages nodejs npm"
        ;;
    deb)
        packages="$packages build-essential dpkg-dev debhelper fakeroot perl"
        ;;
    deb-test)
        packages="$packages lintian debootstrap autopkgtest apt-utils
            iproute2 curl openssl perl"
        ;;
    ci)
        packages="$packages git"
        ;;
    *)
        fail "unknown group \"$group\""
        ;;
    esac
done

missing() {
    for p in $(printf '%s\n' $packages | sort -u); do
        dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null \
            | grep -qx installed || printf '%s ' "$p"
    done
}

want=$(missing)
test -n "$want" || exit 0

command -v apt-get >/dev/null || fail "these packages are missing: $want"

sudo=
if test "$(id -u)" != 0; then
    command -v sudo >/dev/null \
        || fail "run as root: apt-get install --no-install-recommends $want"
    sudo=sudo
fi

lock
want=$(missing)
test -n "$want" || exit 0

say "installing ${want% }"

# A build must open no port: packages are installed, their services are not
# started.  A policy that the machine already has is left as it is.

policy=/usr/sbin/policy-rc.d

if ! test -e $policy; then
    trap '$sudo rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
    $sudo chmod 755 $policy
fi

install() {
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends $want
}

# lists may be absent (fresh image) or too old to find the files

if ! (QUIET=1; V=; quietly install) 2>/dev/null; then
    quietly $sudo apt-get -q -o DPkg::Lock::Timeout=300 update
    quietly install
fi
