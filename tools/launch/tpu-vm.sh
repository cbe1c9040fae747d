#!/usr/bin/env bash
# @@made
#
# Makes the TPU, starts the command on its @@hosts, waits for its end and fetches the
# logs. Ctrl-C ends only this script: the run goes on, and the same script finds it
# again. `bash THIS-FILE stop` saves and ends the run.
set -uo pipefail
name=@@name
nodes=("$name")
where=(@@where)
cleanup="gcloud compute tpus tpu-vm delete $name ${where[*]}"

# The state of the TPU, or MISSING, or UNKNOWN if Google Cloud does not answer.
state() {
  local said
  if said=$(gcloud compute tpus tpu-vm describe "$name" "${where[@]}" \
    --format='value(state)' 2>&1); then
    tail -n 1 <<< "$said"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo MISSING
  else
    echo "$said" >&2
    echo UNKNOWN
  fi
}
create() {
  gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
    --accelerator-type=@@accelerator --version=@@runtime \
    --scopes=cloud-platform@@flags
}
remove() {
  gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
}

@@follow
