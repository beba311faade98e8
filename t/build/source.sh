#!/bin/bash

# The source of nginx as Debian patches it, in build/src/nginx-VERSION:
#
#   source.sh VERSION    an upstream version that a release below has
#   source.sh newest     whatever the last one has
#
# The packages come from the mirror that this machine's apt uses, through an
# apt configuration of our own: the machine's is only read.

. "$(dirname "$0")/common.sh"

suites="bookworm trixie forky"

test $# = 1 || fail "usage: $0 VERSION"

version=$1
dest=$build/src/nginx-$version

test ! -f "$dest/.complete" || exit 0

lock
test ! -f "$dest/.complete" || exit 0

apt=$build/src/apt

mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts"


# the mirrors of the running release, main and security

mirror() {
    apt-get indextargets --format \
        '$(LABEL)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)' \
        'Created-By: Packages' | awk -F'|' -v label="$1" '
            $1 == label && $2 == "main" && $3 !~ /-(updates|backports)$/ \
                { print $4; exit }'
}

main=$(mirror Debian)
security=$(mirror Debian-Security)

test -n "$main" \
    || fail "apt knows no Debian mirror: run apt-get update, then again"

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

for suite in $suites; do
    echo "deb-src [signed-by=$keyring] $main $suite main"

    if test -n "$security"; then
        echo "deb-src [signed-by=$keyring] $security $suite-security main"
    fi
done >"$apt/sources.list.new"

# a mirror may be a frozen copy: its lists are old, their signatures still good

cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/parts";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
END

APT_CONFIG=$apt/apt.conf
export APT_CONFIG

if ! cmp -s "$apt/sources.list.new" "$apt/sources.list" \
    || test -z "$(find "$apt/.updated" -mmin -1440 2>/dev/null)"
then
    mv "$apt/sources.list.new" "$apt/sources.list"
    say "reading Debian's lists of source packages"

    # a suite may be out of reach: what counts is whether the version is found
    if (quietly apt-get -q update) 2>"$apt/log"; then
        touch "$apt/.updated"
    fi
fi


# Revisions of the package, newest first.  A mirror may lack the files of some:
# then the next one will do, and at last the release itself without Debian's
# patches.  apt has checked the sums of whatever it fetched.

all=$(apt-cache showsrc nginx | sed -n 's/^Version: //p' | sort -ruV)

if test "$version" = newest; then
    version=$(echo "$all" | sed -n '1s/-.*//p')
fi

revisions=$(echo "$all" | while read -r v; do
    test "${v%%-*}" != "$version" || echo "$v"
done)

if test -z "$revisions"; then
    test ! -s "$apt/log" || tail -n 20 "$apt/log" >&2
    fail "Debian has no source of nginx $version"
fi

cd "$apt"
rm -rf "$dest" "$dest.new"

fetch() {
    apt-get -q source --download-only "$@" >>"$apt/log" 2>&1
}

: >"$apt/log"

for package in $revisions; do
    if fetch "nginx=$package"; then
        quietly dpkg-source --no-check -x "nginx_${package#*:}.dsc" \
            "$dest.new"
        break
    fi
done

if ! test -d "$dest.new"; then
    for package in $revisions; do
        if fetch --tar-only "nginx=$package"; then
            package=${package%%-*}
            mkdir "$dest.new"
            tar -xzf "nginx_$package.orig.tar.gz" -C "$dest.new" \
                --strip-components=1
            break
        fi
    done
fi

if ! test -d "$dest.new"; then
    grep -v '^Get:' "$apt/log" | tail -n 20 >&2
    fail "the mirror has no source of nginx $version"
fi

rm -rf "$dest.new/.pc"
echo "$package" >"$dest.new/.complete"
mv "$dest.new" "$dest"

say "unpacked the source of nginx $package"
