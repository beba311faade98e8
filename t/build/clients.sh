#!/bin/bash

# Installs Huawei's SDK core for Node, which t/clients_node.t drives, into
# build/clients: the versions and checksums of t/clients/package-lock.json,
# without running a script of any package.  (uuid is there because the core
# needs it and does not say so.)

. "$(dirname "$0")/common.sh"

to=$build/clients
from=$root/t/clients

lock

sums=$(cat "$from/package.json" "$from/package-lock.json" | sha256sum)
test "$(cat "$to/.sums" 2>/dev/null)" != "$sums" || exit 0

command -v npm >/dev/null || fail "npm is missing: run \"make clients\""

say "installing Huawei's SDK core for Node"

rm -rf "$to"
mkdir -p "$to"
cp "$from/package.json" "$from/package-lock.json" "$to/"

cd "$to"
quietly npm ci --ignore-scripts --no-audit --no-fund

printf '%s\n' "$sums" >"$to/.sums"
