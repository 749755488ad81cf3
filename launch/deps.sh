#!/usr/bin/env bash
# Installs what Switchyard needs and this machine lacks, from the distribution's packages. Quiet when all is there.
#
#   launch/deps.sh                install what is missing (root, or sudo)
#   launch/deps.sh --no-install   only say what is missing; exit 1 if something is
set -euo pipefail

install=yes
case "${1:-}" in
"") ;;
--no-install) install=no ;;
*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

has_command() { command -v "$1" >/dev/null 2>&1; }
has_library() { has_command pkg-config && pkg-config --exists "$1"; }
has_header() { has_command cc && printf '#include <%s>\n' "$1" | cc -E - >/dev/null 2>&1; }

# what must be there (command, pkg-config name or header), and Debian's package for it
wanted="
command cc build-essential
command c++ build-essential
command pkg-config pkg-config
command meson meson
command ninja ninja-build
command python3 python3
command mpirun openmpi-bin
command ip iproute2
command faketime faketime
library ompi-c libopenmpi-dev
library hdf5-openmpi libhdf5-openmpi-dev
header oneapi/dnnl/dnnl.h libdnnl-dev
library yaml-0.1 libyaml-dev
library jansson libjansson-dev
library libxxhash libxxhash-dev
library libpcre2-8 libpcre2-dev
library libutf8proc libutf8proc-dev
library zlib zlib1g-dev
library libzstd libzstd-dev
library sentencepiece libsentencepiece-dev
header Random123/philox.h librandom123-dev
library cmocka libcmocka-dev
"

missing_packages() {
  local kind name package
  while read -r kind name package; do
    if [ -n "$kind" ] && ! "has_$kind" "$name"; then
      echo "$package"
    fi
  done <<<"$wanted" | sort -u
}

fail() {
  printf 'deps: %s\n' "$@" >&2
  exit 1
}

missing=$(missing_packages | tr '\n' ' ')
missing=${missing% }
[ -n "$missing" ] || exit 0

by_hand="apt-get install $missing"
[ "$install" = yes ] || fail "these packages are missing: $missing" "install them with: $by_hand"
has_command apt-get || fail "there is no apt-get here; install what Debian calls: $missing"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  has_command sudo || fail "neither root nor sudo is at hand; ask somebody who is to run: $by_hand"
  as_root=(sudo)
  [ -t 0 ] || as_root=(sudo -n)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >>"$log" 2>&1 </dev/null; }

printf 'deps: installing %s\n' "$missing"
# shellcheck disable=SC2086 # a list of packages
if ! apt install --no-install-recommends $missing && ! { apt update && apt install --no-install-recommends $missing; }; then
  tail -n 15 "$log" >&2
  fail "the installation failed (see above); try: ${as_root[*]:+sudo }$by_hand"
fi

missing=$(missing_packages | tr '\n' ' ')
[ -z "$missing" ] || fail "installed, but still not usable: $missing"
printf 'deps: done\n'
