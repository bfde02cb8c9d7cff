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

# One copy a node, where every rank's imports would ask the shared file system thousands of times. Nobody else can know
# the folder's name beforehand. Where it cannot be made, on a full disk say, ranks take the environment as it lies.
local_folder='/local disk'/hpcpar-$SLURM_JOB_ID-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
python=$local_folder/bin/python
on_every_node() { srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=1 "$@"; }
# What an earlier start of this job could not remove.
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] ||
  on_every_node find '/local disk' -maxdepth 1 -user "$(id -u)" -name "hpcpar-$SLURM_JOB_ID-*" -exec rm -rf {} +
if ! {
  sbcast '/shared/my env.tar' "$local_folder.tar" &&
    on_every_node mkdir -m 700 "$local_folder" &&
    on_every_node tar --no-overwrite-dir -xf "$local_folder.tar" -C "$local_folder" &&
    on_every_node rm "$local_folder.tar" &&
    on_every_node "$python" -c ''
}; then
  echo 'hpcpar: the environment could not be brought to the nodes; ranks take it as it lies' >&2
  on_every_node rm -rf "$local_folder" "$local_folder.tar"
  python=/shared/venv/bin/python
fi
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
srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=8 --kill-on-bad-exit=1 --output="${run_folder//%/%%}/logs/$HPCPAR_ATTEMPT.%t.log" \
  "$python" -m hpcpar.worker /runs/s/batches/KEY/payload.pkl "$run_folder"
status=$?

# The job's last word, written even when every rank was killed. The job ends with the ranks' exit code; with 74 where
# this cannot be written, on a full disk say.
printf '\n{"schema":1,"time":%s,"kind":"script_exit","data":{"code":%d}}\n' "$(date +%s.%N)" "$status" \
  >>"$run_folder/events.$HPCPAR_ATTEMPT.jsonl" || status=74
on_every_node rm -rf "$local_folder" "$local_folder.tar"
exit "$status"
