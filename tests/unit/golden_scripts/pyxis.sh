#!/bin/bash
#SBATCH --job-name=hpcpar-s-KEY
#SBATCH --comment=hpcpar:KEY
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=00:10:00
#SBATCH --array=0-1
#SBATCH --gpus-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/runs/s/batches/KEY/logs/%A_%a.log
#SBATCH --no-requeue
#
# Made by hpcpar. Batch KEY: the same shape for every run of the array.

export OMP_NUM_THREADS=8
export HPCPAR_CPUS_PER_RANK=8
export PYTHONUNBUFFERED=1

runs=(
  RUN-r1
  RUN-r2
)
run_name=${runs[${SLURM_ARRAY_TASK_ID:-0}]}
export HPCPAR_ATTEMPT="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}.${SLURM_RESTART_COUNT:-0}"
run_folder=/runs/s/$run_name
mkdir -p "$run_folder/logs"
# A controller that was killed may start a job twice and count it once: no two starts write into the same files.
while ! (set -o noclobber && : >"$run_folder/events.$HPCPAR_ATTEMPT.jsonl") 2>/dev/null &&
  [ -e "$run_folder/events.$HPCPAR_ATTEMPT.jsonl" ]; do
  HPCPAR_ATTEMPT=${HPCPAR_ATTEMPT%.*}.$((${HPCPAR_ATTEMPT##*.} + 1))
done

# --cpus-per-task stands here because srun does not inherit it (Slurm 22.05 to 23.02); a rank that dies ends the others.
srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=8 --kill-on-bad-exit=1 '--container-image=nvcr.io#nvidia/pytorch:26.01-py3' '--container-mounts=/runs/s:/runs/s,/scratch/data:/scratch/data,/from here:/to' --output="${run_folder//%/%%}/logs/$HPCPAR_ATTEMPT.%t.log" \
  python -m hpcpar.worker /runs/s/batches/KEY/payload.pkl "$run_folder"
status=$?

# The job's last word, written even when every rank was killed. The job ends with the ranks' exit code; with 74 where
# this cannot be written, on a full disk say.
printf '\n{"schema":1,"time":%s,"kind":"script_exit","data":{"code":%d}}\n' "$(date +%s.%N)" "$status" \
  >>"$run_folder/events.$HPCPAR_ATTEMPT.jsonl" || status=74
exit "$status"
