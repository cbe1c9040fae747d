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

# The state of the request, or MISSING, or UNKNOWN if Google Cloud does not answer.
state() {
  local said
  if said=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>&1); then
    tail -n 1 <<< "$said"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo MISSING
  else
    echo "$said" >&2
    echo UNKNOWN
  fi
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
