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

describe() {
  gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(state)'
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
