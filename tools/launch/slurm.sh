#!/usr/bin/env bash
# @@made
#
# Submit it from a directory that all nodes share; partition, account and time limit are
# yours:    sbatch --partition=gpu --time=24:00:00 THIS-FILE
#
# Five minutes before the time limit, and when Slurm preempts the job, jaxlm saves and
# ends with 75: the job goes back into the queue and resumes.
#SBATCH --job-name=@@name
#SBATCH --nodes=@@count
#SBATCH --ntasks-per-node=@@tasks@@gpus
#SBATCH --exclusive
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
cd "${SLURM_SUBMIT_DIR:?submit it with sbatch}" || exit 1
command=(@@words)
mkdir -p @@name && cd @@name || exit 1
@@install
install || exit 1
cd .. || exit 1

# One log for each task; a lost task ends the others within 100 seconds.
status=0
srun --kill-on-bad-exit=0 --cpu-bind=none --open-mode=append --output=@@name/%j-%t.log \
  @@name/bin/jaxlm "${command[@]}" || status=$?
echo "launch: $(date -u +%FT%TZ) status $status" >&2

# 75: saved. 128 and more: a lost node. Both go on, a lost node at most ten times.
if [ "$status" -eq 75 ] ||
  { [ "$status" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$status"
