#!/usr/bin/env bash
# Runs a training job until it is done: after a failure it is started again from its newest checkpoint that verifies.
#
#   launch/supervise.sh [OPTIONS] -n RANKS PROGRAM train CONFIG.yaml --run-dir DIR [ARGUMENTS]
#
#   --retries N         give up after N failures in a row without a new checkpoint between them (default 5)
#   --backoff SECONDS   pause before a restart, doubled from failure to failure up to 300 (default 5)
#   --until-done        a job that stopped on request (exit status 75) is started again, too
#   --shrink            with --hosts: go on with the hosts that answer, with as many ranks as parallel.ep divides
#   --launcher COMMAND  start with this instead of launch/mpirun.sh -n RANKS, such as 'srun --mpi=pmix'
#   --hosts, --network, --bind, --export: see launch/mpirun.sh
#
# Exit status: that of the last job. 0 is done; 2 and 3 (wrong use, a damaged checkpoint) are never tried again; 75 is stopped on
# request; all else, 76 (a rank stopped answering) among it, is a failure. SIGUSR1, SIGTERM, SIGINT and SIGHUP ask the job to save
# and stop, a second one ends it. Where this script is killed, the job ends too. What it did stands in DIR/supervise.log.
set -uo pipefail

# A stream that was closed leaves its number to the next file, which would be printed into.
for fd in 0 1 2; do
  [ -e "/dev/fd/$fd" ] || eval "exec $fd<>/dev/null"
done

here=$(dirname "${BASH_SOURCE[0]}")
usage() { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}
is_number() { [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]]; } # 08 would be octal

ranks=${SLURM_NTASKS:-} hosts='' retries=5 backoff=5 until_done=no shrink=no launcher=() passed=()
while [ $# -gt 0 ]; do
  case $1 in
  --until-done) until_done=yes; shift; continue ;;
  --shrink) shrink=yes; shift; continue ;;
  -n) ranks=${2:-} ;;
  --hosts) hosts=${2:-} ;;
  --retries) retries=${2:-} ;;
  --backoff) backoff=${2:-} ;;
  --launcher) read -r -a launcher <<<"${2:-}" ;;
  --network | --bind | --export) passed+=("$1" "${2:-}") ;;
  -*) usage ;;
  *) break ;;
  esac
  [ -n "${2:-}" ] || usage
  shift 2
done
if [ $# -lt 2 ] || [ "$2" != train ] || ! is_number "$retries" || ! is_number "$backoff"; then
  usage
fi
if [ ${#launcher[@]} -eq 0 ] && [[ ! $ranks =~ ^[1-9][0-9]*$ ]]; then
  usage
fi
[ $shrink = no ] || [ -n "$hosts" ] || refuse "--shrink goes with --hosts"
command -v "$1" >/dev/null 2>&1 || refuse "there is no program '$1'"

# The run directory, and the groups that experts are shared out in, as the command line has them.
run='' ep=''
args=("$@")
for i in "${!args[@]}"; do
  case ${args[i]} in
  --run-dir) run=${args[i + 1]:-} ;;
  --run-dir=*) run=${args[i]#*=} ;;
  --set) [[ ${args[i + 1]:-} != parallel.ep=* ]] || ep=${args[i + 1]#*=} ;;
  --set=parallel.ep=*) ep=${args[i]##*=} ;;
  --resume | --resume=*) refuse "--resume is what this script adds; leave it out" ;;
  esac
done
[ -n "$run" ] || refuse "name the run directory: --run-dir DIR"
mkdir -p "$run" || refuse "the run directory '$run' cannot be made"
exec 9>>"$run/supervise.log" || refuse "'$run/supervise.log' cannot be written"
flock -n 9 || refuse "another supervise.sh looks after '$run'"

note() {
  printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >&9
  printf 'supervise: %s\n' "$*" >&2 || true
}

# ---- the job ----

job='' asked=0 pause=''
ask() {
  asked=$((asked + 1))
  if [ -n "$job" ] && [ $asked -eq 1 ]; then
    note "SIG$1: asking the job to save and stop"
    kill -USR1 "$job" 2>/dev/null
  elif [ -n "$job" ]; then
    note "SIG$1 again: ending the job"
    kill -TERM "$job" 2>/dev/null
  fi
  [ -z "$pause" ] || kill "$pause" 2>/dev/null
}
for name in USR1 TERM INT HUP; do
  # shellcheck disable=SC2064 # the name of now
  trap "ask $name" "$name"
done
trap '' PIPE

newest() {
  local path
  path=$(readlink "$run/checkpoints/latest" 2>/dev/null) || true
  path=${path//[!0-9]/}
  path=${path%5} # of .h5
  echo $((10#${path:-0}))
}

# Which hosts answer, and how many ranks they carry: a multiple of ep, at most what was asked for.
choose_hosts() {
  local found slots total=0 group=$ep
  found=$("$here/hosts.sh" "$hosts" "$ranks" --leave-out 9>&-) || return
  [ -n "$group" ] || group=$(sed -n '/^parallel:/,/^[^ ]/s/^ *ep: *\([0-9]*\).*/\1/p' "$run/config.yaml" 2>/dev/null | head -n 1)
  is_number "${group:-1}" && [ "${group:-1}" -gt 0 ] || group=1
  while read -r _ slots; do
    total=$((total + slots))
  done <<<"$found"
  total=$((total < ranks ? total : ranks))
  n=$((total - total % ${group:-1}))
  if [ $n -eq 0 ]; then
    note "$total ranks are left, and parallel.ep is $group"
    return 1
  fi
  printf '%s\n' "${found// / slots=}" >"$run/supervise.hosts"
  [ $n -eq "$ranks" ] || note "$n of $ranks ranks, on $(wc -l <"$run/supervise.hosts") hosts"
  start+=(--hosts "$run/supervise.hosts")
}

# A job that was killed leaves shared memory that nobody maps, and a folder of Open MPI's under its mpirun's number.
clean() {
  local found again
  found=$(unmapped)
  if [ -n "$found" ]; then
    sleep 1 # a job that is just starting maps what it makes at once
    again=$(unmapped)
    comm -12 <(sort <<<"$found") <(sort <<<"$again") | xargs -r rm -f --
  fi
  rm -rf "${TMPDIR:-/tmp}"/{ompi.*.,prterun.*}"$(id -u)"/pid."$1" "${TMPDIR:-/tmp}"/prterun.*."$1"."$(id -u)"
}
unmapped() {
  local path
  find /dev/shm -maxdepth 1 -user "$(id -u)" \( -name 'vader_segment.*' -o -name 'sm_segment.*' \) 2>/dev/null |
    while read -r path; do
      grep -qsF -- "$path" /proc/[0-9]*/maps || echo "$path"
    done
}

# note_number MPIRUN: the number by which Open MPI 4 names what a job shares; hosts.sh removes what jobs before left on other hosts
note_number() {
  local words i
  for i in {1..20}; do
    if read -r words < <(cat "${TMPDIR:-/tmp}"/ompi.*."$(id -u)"/pid."$1"/contact.txt 2>/dev/null); then
      printf '%x\n' $((${words%%.*} + 1)) >>"$run/supervise.jobs"
      return
    fi
    sleep 0.5
    kill -0 "$1" || return
  done
}

# An mpirun that cannot reach one of its hosts any more waits for it, for minutes, though its own ranks are gone.
# end_lingering MPIRUN PROGRAM: ends it after 15 s without them
end_lingering() {
  local gone=0 seen=no name
  name=$(basename "$2")
  [ -z "$hosts" ] || note_number "$1"
  while sleep 3 && kill -0 "$1"; do
    if cat "/proc/$1/task"/*/children | tr ' ' '\n' | sed -n 's|^[0-9].*|/proc/&/comm|p' | xargs -r cat | grep -qxF -- "${name:0:15}"; then
      seen=yes gone=0
    else
      gone=$((gone + 3))
    fi
    if [ $seen = yes ] && [ $gone -ge 15 ]; then
      note "the ranks of this host are gone and mpirun waits for others: ending it"
      kill -TERM "$1"
      sleep 3
      kill -KILL "$1"
      return
    fi
  done
}

# Dies with us, in a process group of its own: a Ctrl-C reaches it through us alone.
tether=()
if setpriv --pdeathsig TERM true 2>/dev/null; then
  tether=(setpriv --pdeathsig TERM)
fi

# run_once ARGUMENTS: sets rc
run_once() {
  local start=() n=$ranks begun=$SECONDS lingering
  SY_ENDED_JOBS=$(tr '\n' ' ' <"$run/supervise.jobs")
  export SY_ENDED_JOBS
  if [ ${#launcher[@]} -gt 0 ]; then
    start=("${launcher[@]}")
  else
    start=("$here/mpirun.sh" "${passed[@]}")
    if [ $shrink = yes ]; then
      choose_hosts || { rc=$?; return; }
    elif [ -n "$hosts" ]; then
      start+=(--hosts "$hosts")
    fi
    start+=(-n "$n")
  fi
  note "start: ${start[*]} $* --resume"
  set -m
  "${tether[@]}" "${start[@]}" "$@" --resume </dev/null 9>&- &
  job=$!
  set +m
  end_lingering "$job" "$1" 9>>"$run/supervise.log" >/dev/null 2>&1 & # the lock stays with us alone
  lingering=$!
  if [ $asked -gt 0 ]; then
    kill -USR1 "$job" 2>/dev/null
  fi
  while kill -0 "$job" 2>/dev/null; do
    wait "$job"
  done
  wait "$job"
  rc=$?
  kill "$lingering" 2>/dev/null
  if [ $rc -ne 0 ] && [ $rc -ne 75 ]; then
    killed=$job
  fi
  [ -z "$killed" ] || clean "$killed" # also later: ranks of a killed mpirun may take their time to end
  job=
  if [ $asked -gt 0 ] && [ $rc -eq 138 ]; then
    rc=75 # asked before it could listen: nothing was begun
  fi
  note "ended with exit status $rc after $((SECONDS - begun)) s, newest checkpoint: step $(newest)"
}

rest() {
  sleep "$1" 9>&- &
  pause=$!
  wait "$pause" 2>/dev/null
  pause=
}

# ---- until it is done ----

: >"$run/supervise.jobs"
failures=0 killed=
while :; do
  before=$(newest)
  run_once "$@"
  case $rc in
  0) note "done"; exit 0 ;;
  2 | 3) note "exit status $rc is not mended by trying again"; exit $rc ;;
  75) [ $until_done = yes ] && [ $asked -eq 0 ] || exit 75 ;;
  esac
  if [ $asked -gt 0 ]; then
    note "not started again: it was asked to stop"
    exit $rc
  fi
  if [ "$(newest)" -gt "$before" ]; then
    failures=0
    [ $rc -ne 75 ] || continue
  fi
  failures=$((failures + 1))
  if [ $failures -gt "$retries" ]; then
    note "giving up: $failures failures without a new checkpoint"
    exit $rc
  fi
  seconds=$((backoff << (failures - 1 < 9 ? failures - 1 : 9)))
  seconds=$((seconds < 300 || backoff > 300 ? seconds : 300))
  note "restart $failures of at most $retries in $seconds s"
  [ $seconds -eq 0 ] || rest $seconds
  if [ $asked -gt 0 ]; then
    note "not started again: it was asked to stop"
    exit 75
  fi
done
