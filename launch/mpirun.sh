#!/usr/bin/env bash
# mpirun, on this machine or across hosts, as root too, with Open MPI 4 and 5.
#
#   launch/mpirun.sh [OPTIONS] -n RANKS PROGRAM [ARGUMENTS]
#
#   --hosts FILE      across hosts: one per line, NAME [slots=N]; without slots the ranks are dealt evenly
#   --network NET     the network that MPI uses over TCP: 10.0.0.0/16, or eth0
#   --bind CORES      that many cores for each rank (default: none is bound, each rank runs with its share of threads)
#   --export NAME     give this variable to the ranks on other hosts, too (they get LD_LIBRARY_PATH, OMP_NUM_THREADS,
#                     and what begins with SY_, DNNL_, ONEDNN_, UCX_, NCCL_, CUBLAS_, FI_, MALLOC_)
#
# In a Slurm allocation mpirun knows the hosts: neither --hosts nor -n is needed. On one machine there may be more ranks than
# cores. MPIRUN names another mpirun, SY_RSH what reaches another host (default: ssh). The process becomes mpirun, so signals
# reach it: kill -USR1 stops a training run.
set -euo pipefail

# A stream that was closed leaves its number to a socket of mpirun's, which then hangs.
for fd in 0 1 2; do
  [ -e "/dev/fd/$fd" ] || eval "exec $fd<>/dev/null"
done

here=$(dirname "${BASH_SOURCE[0]}")
usage() { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() {
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

ranks=${SLURM_NTASKS:-} hosts='' bind='' network='' exports=()
while [ $# -gt 0 ]; do
  case $1 in
  -n) ranks=${2:-} ;;
  --hosts) hosts=${2:-} ;;
  --network) network=${2:-} ;;
  --bind) bind=${2:-} ;;
  --export) exports+=("${2:-}") ;;
  -*) usage ;;
  *) break ;;
  esac
  [ -n "${2:-}" ] || usage
  shift 2
done
if [ $# -eq 0 ] || [[ ! $ranks =~ ^[1-9][0-9]*$ ]] || [[ ! ${bind:-1} =~ ^[1-9][0-9]*$ ]]; then
  usage
fi

mpirun=${MPIRUN:-mpirun}
command -v "$mpirun" >/dev/null 2>&1 ||
  fail 1 "'$mpirun' was not found; install it with launch/deps.sh, or name it in MPIRUN"
options=(-n "$ranks")

# param NAME VALUE: an MCA parameter, unless the user has set it; Open MPI 5 gave its launcher a prefix of its own
param() {
  local v4=OMPI_MCA_$1 v5=PRTE_MCA_$1
  export "$v4=${!v4:-$2}" "$v5=${!v5:-$2}"
}

# The hosts with their slots, and what they must be told: ssh hands nothing on but what mpirun names.
across_hosts() {
  local list host slots total=0 hostlist='' name
  list=$("$here/hosts.sh" "$hosts" "$ranks") || exit
  while read -r host slots; do
    hostlist+=,$host:$slots
    total=$((total + slots))
    most=$((slots > most ? slots : most))
  done <<<"$list"
  [ "$ranks" -le "$total" ] || fail 2 "$hosts has $total slots, and $ranks ranks are asked for (-n); add hosts, or slots=N"
  options+=(--host "${hostlist:1}")
  for name in $(compgen -e | grep -E '^(LD_LIBRARY_PATH|OMP_NUM_THREADS|(SY|DNNL|ONEDNN|UCX|NCCL|CUBLAS|FI|MALLOC)_.*)$') "${exports[@]}"; do
    options+=(-x "$name")
  done
  if [ -n "${SY_RSH:-}" ]; then
    param plm_rsh_agent "$SY_RSH" # Open MPI 4
    param plm_ssh_agent "$SY_RSH" # Open MPI 5
  fi
  # a host that is cut off is found after 30 + 3 x 5 s, not after the minutes that are the default
  param oob_tcp_keepalive_time 30
  param oob_tcp_keepalive_intvl 5
  param oob_tcp_keepalive_probes 3
}

most=$ranks
if [ -n "$hosts" ]; then
  most=0
  across_hosts
fi
if [ -n "$network" ]; then
  param btl_tcp_if_include "$network"
  param oob_tcp_if_include "$network"
fi
map=
if [ -n "$bind" ]; then
  options+=(--bind-to core)
  map=PE=$bind
else
  options+=(--bind-to none)
fi
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # which would take those for the cores
if [ -z "${SLURM_JOB_ID:-}" ] && [ "$most" -gt "$cores" ]; then
  [ -z "$bind" ] || fail 2 "--bind $bind: $most ranks have $cores cores; leave it out, or start fewer ranks"
  map=OVERSUBSCRIBE
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1} # a waiting rank gives its core away
fi
[ -z "$map" ] || options+=(--map-by "slot:$map")
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # Open MPI 4
  export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 # Open MPI 5
fi
if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
  # containers often forbid one process to read another's memory; Open MPI notices too late
  export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
  export OMPI_MCA_smsc=${OMPI_MCA_smsc:-^cma}
fi
# Under nohup a hang-up would be mpirun's end all the same, which listens to it of its own accord.
shield=()
if [[ $(trap -p HUP) == "trap -- '' "* ]] && env --block-signal=HUP true 2>/dev/null; then
  shield=(env --block-signal=HUP)
fi
exec "${shield[@]}" "$mpirun" "${options[@]}" "$@"
