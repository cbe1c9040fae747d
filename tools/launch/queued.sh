#!/usr/bin/env bash
# @@made
#
# Queues for @@hosts, starts the command on them, waits for its end and fetches the
# logs. After a preemption, what is left is deleted and queued for anew, and the run
# resumes. Ctrl-C ends only this script: the run goes on, and the same script finds it
# again. `bash THIS-FILE stop` saves and ends the run.
set -uo pipefail
name=@@name
nodes=(@@nodes)
where=(@@where)
cleanup="gcloud compute tpus queued-resources delete $name ${where[*]} --force"

describe() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}
create() {
  gcloud compute tpus queued-resources create "$name" "${where[@]}" @@node \
    --accelerator-type=@@accelerator --runtime-version=@@runtime \
    --scopes=cloud-platform@@flags
}
remove() {
  gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

@@follow
