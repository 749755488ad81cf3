#!/usr/bin/env bash
# A picture of a run's report, for the README: docs/images/report.png. Needs chromium.
#
#   tools/report_picture.sh [RUN_DIR [PICTURE.png]]    (runs/quickstart/moe)
set -Eeuo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:-runs/quickstart/moe}
picture=${2:-docs/images/report.png}
program=build/launch/switchyard
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$program" report "$run" -o "$scratch/report.html" >/dev/null
mkdir -p "$(dirname "$picture")"
# preferredColorScheme 1: light, whatever the desktop's
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --blink-settings=preferredColorScheme=1 \
  --window-size=1180,1740 --screenshot="$scratch/report.png" "file://$scratch/report.html" 2>/dev/null
bytes=$(stat -c %s "$scratch/report.png")
[ "$bytes" -lt 200000 ] || { echo "report_picture: $bytes bytes are more than 200 kB" >&2; exit 1; }
mv "$scratch/report.png" "$picture"
echo "$picture ($bytes bytes)"
