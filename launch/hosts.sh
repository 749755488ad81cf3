#!/usr/bin/env bash
# Reads a host file: one host per line, NAME [slots=N], # begins a comment. Prints `NAME SLOTS` for each.
#
#   launch/hosts.sh FILE RANKS [--leave-out]
#
# Without slots, RANKS ranks are dealt evenly over the hosts. A host that stands there twice or does not answer is refused with
# its line, exit status 2; with --leave-out, one that does not answer is left out and named on standard error (1: none is left).
# SY_RSH names what reaches another host (default: ssh); SY_RSH_WAIT how many seconds it may take (10). SY_ENDED_JOBS: numbers of
# jobs of Open MPI 4 that are over; what shared memory they left on the other hosts is removed (supervise.sh sets it).
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
if [ $# -lt 2 ] || [ $# -gt 3 ] || [[ ! $2 =~ ^[1-9][0-9]*$ ]] || [ "${3:---leave-out}" != --leave-out ]; then
  usage
fi
file=$1 ranks=$2 leave_out=${3:-}
wait_s=${SY_RSH_WAIT:-10}
read -r -a rsh <<<"${SY_RSH:-ssh -x -o BatchMode=yes -o ConnectTimeout=$wait_s}"

hello=true
if [ -n "${SY_ENDED_JOBS:-}" ]; then
  hello="sh -c 'rm -f --"
  for job in $SY_ENDED_JOBS; do
    [[ $job =~ ^[0-9a-f]+$ ]] || usage
    hello+=" /dev/shm/vader_segment.*.\`id -u\`.$job.*"
  done
  hello+="'"
fi

refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

names=() slots=() lines=()
declare -A line_of=()

# add LINE NAME [SLOTS]
add() {
  local address
  [ -z "${line_of[$2]:-}" ] ||
    refuse "$file, line $1: host '$2' stands in line ${line_of[$2]} already; name a host once, with slots=N for N ranks"
  address=$(getent ahostsv4 "$2" 2>/dev/null | awk 'NR == 1 { print $1 }') || true
  if [ -n "$address" ] && [ "$address" != "$2" ]; then
    [ -z "${line_of[$address]:-}" ] ||
      refuse "$file, line $1: host '$2' is $address, as in line ${line_of[$address]}; name a host once, with slots=N for N ranks"
    line_of[$address]=$1
  fi
  line_of[$2]=$1
  names+=("$2") slots+=("${3:-0}") lines+=("$1")
}

read_file() {
  local text name rest n=0
  if [ ! -f "$file" ] || [ ! -r "$file" ]; then
    refuse "cannot read the host file '$file'"
  fi
  while IFS= read -r text || [ -n "$text" ]; do
    n=$((n + 1))
    text=${text%$'\r'} # an editor of Windows
    read -r name rest <<<"${text%%#*}" || true
    if [ -z "$name" ]; then
      continue
    fi
    [[ $name =~ ^[A-Za-z0-9_][A-Za-z0-9._:-]*$ ]] || refuse "$file, line $n: '$name' is not the name or address of a host"
    if [ -z "$rest" ]; then
      add "$n" "$name"
    elif [[ $rest =~ ^slots=([1-9][0-9]{0,4})[[:space:]]*$ ]]; then
      add "$n" "$name" "${BASH_REMATCH[1]}"
    else
      refuse "$file, line $n: '$rest' is not understood; a line reads NAME or NAME slots=N"
    fi
  done <"$file"
  [ ${#names[@]} -gt 0 ] || refuse "$file: no host is named in it"
}

is_here() {
  case " localhost 127.0.0.1 ::1 $(hostname) $(hostname -s) $(hostname -I 2>/dev/null) " in
  *" $1 "*) return 0 ;;
  esac
  return 1
}

# One file per host that answers, 64 asked at a time.
ask_all() {
  local i running=0
  for i in "${!names[@]}"; do
    {
      if is_here "${names[i]}" || timeout "$wait_s" "${rsh[@]}" "${names[i]}" "$hello" </dev/null >/dev/null 2>&1; then
        : >"$answers/$i"
      fi
    } &
    running=$((running + 1))
    if [ $running -ge 64 ]; then
      wait -n
      running=$((running - 1))
    fi
  done
  wait
}

read_file
answers=$(mktemp -d)
trap 'rm -rf "$answers"' EXIT
ask_all
dead=()
for i in "${!names[@]}"; do
  [ -e "$answers/$i" ] || dead+=("'${names[i]}' (line ${lines[i]})")
done
if [ ${#dead[@]} -gt 0 ]; then
  said="$file: no answer within $wait_s s to '${rsh[0]} HOST true' from $(printf '%s, ' "${dead[@]}" | sed 's/, $//')"
  [ -n "$leave_out" ] || refuse "$said; mend the way there, or take the line out"
  printf '%s; left out\n' "$said" >&2
  [ ${#dead[@]} -lt ${#names[@]} ] || exit 1
fi
even=$(((ranks + ${#names[@]} - 1) / ${#names[@]}))
for i in "${!names[@]}"; do
  [ ! -e "$answers/$i" ] || echo "${names[i]} $((slots[i] > 0 ? slots[i] : even))"
done
