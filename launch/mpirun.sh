#!/usr/bin/env bash
# mpirun for one machine: as many ranks as wanted, more than cores too, as root too, with Open MPI 4 and 5.
#
#   launch/mpirun.sh -n RANKS PROGRAM [ARGUMENTS]
#
# MPIRUN names another mpirun. The process becomes mpirun, so signals reach it: kill -USR1 stops a training run.
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
if [ $# -lt 3 ] || [ "$1" != -n ] || [[ ! "$2" =~ ^[1-9][0-9]*$ ]]; then
  usage
fi
ranks=$2

mpirun=${MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null 2>&1; then
  echo "mpirun.sh: '$mpirun' was not found; install it with launch/deps.sh, or name it in MPIRUN" >&2
  exit 1
fi

cores=$(nproc)
options=(--bind-to none)
if [ "$ranks" -gt "$cores" ]; then
  options+=(--oversubscribe)
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1} # a waiting rank gives its core away
fi
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # Open MPI 4
  export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 # Open MPI 5
fi
if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
  # containers often forbid one process to read another's memory; Open MPI notices too late
  export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
  export OMPI_MCA_smsc=${OMPI_MCA_smsc:-^cma}
fi
exec "$mpirun" "${options[@]}" "$@"
