#!/bin/bash

# The Debian packages, in build/deb:  deb.sh [DIRECTORY]
#
# The tree is copied, since Debian wants its files in "debian" at the top,
# and built by dpkg-buildpackage, with a source package. What is built depends
# on the content of the tree alone, neither on the place nor on the time.

. "$(dirname "$0")/common.sh"

out=${1:-$build/deb}
debian=$root/t/build/debian

field() {
    dpkg-parsechangelog -l "$debian/changelog" -S "$1"
}

name=$(field Source)
revision=$(field Version)
version=${revision%-*}

SOURCE_DATE_EPOCH=$(field Timestamp)
export SOURCE_DATE_EPOCH

defined=$(sed -n 's/^#define NGX_HTTP_CDM_STOP_VERSION *"\(.*\)"$/\1/p' \
    "$root/src/ngx_http_cdm_stop.h")

test "$version" = "$defined" \
    || fail "version $version in t/build/debian/changelog, $defined in src"

lock

tree=$out/$name-$version

rm -rf "$out"
mkdir -p "$tree"


# what git knows, as it is now; else all but what was built

files() {
    if git -C "$root" -c safe.directory='*' rev-parse --git-dir >/dev/null 2>&1
    then
        git -C "$root" -c safe.directory='*' ls-files -z \
            -co --exclude-standard
    else
        find . \( -path ./build -o -name .git \) -prune -o -type f -print0
    fi
}

umask 022
cd "$root"

files | tar -c --null --verbatim-files-from -T - --ignore-failed-read \
    --exclude=.git --mode=u+rw,go=rX --sort=name --owner=0 --group=0 \
    --numeric-owner --mtime=@"$SOURCE_DATE_EPOCH" \
    --transform "s|^\(\./\)\?|$name-$version/|" 2>/dev/null \
    | gzip -n >"$out/${name}_$version.orig.tar.gz"

tar -xzf "$out/${name}_$version.orig.tar.gz" -C "$out"
cp -r "$debian" "$tree/debian"

cd "$tree"
DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:-} parallel=$jobs" \
    quietly dpkg-buildpackage -us -uc

cd "$out"

for f in *.deb; do
    say "built ${out#"$root"/}/$f"
done
