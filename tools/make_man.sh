#!/usr/bin/env bash
# A man page of the program and one of each of its commands, made by help2man from --help.
#
#   tools/make_man.sh PROGRAM VERSION FOLDER      (below DESTDIR, where that is set)
set -euo pipefail

program=$1 version=$2 folder=${DESTDIR:-}$3
mkdir -p "$folder"

# page NAME TITLE COMMAND...
page() {
  help2man --no-info --version-string="$version" --source="Switchyard $version" --name="$2" --output="$folder/$1.1" "${*:3}"
}

commands=$("$program" --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p')
page switchyard "train Mixture-of-Experts language models" "$program"
for command in $commands; do
  page "switchyard-$command" "$("$program" "$command" --help | sed -n '3,/^$/p' | paste -sd' ' | sed 's/ *$//')" "$program" "$command"
done
