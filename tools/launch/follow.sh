# The state that Google Cloud tells, or MISSING, or UNKNOWN if it does not answer.
state() {
  local said
  if said=$(describe 2>&1); then
    tail -n 1 <<< "$said"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo MISSING
  else
    echo "$said" >&2
    echo UNKNOWN
  fi
}

# Every node has the files of this run in ~/$name.
on() { # NODE WORKER COMMAND [FLAGS]: run a command on one worker of a node, or on all
  gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" --worker="$2" --command="$3" "${@:4}"
}

start() {
  local node files
  files=$(mktemp -d)
  mkdir "$files/$name"
  cat > "$files/$name/host.sh" << 'HOST'
@@host
HOST
  for node in "${nodes[@]}"; do
    gcloud compute tpus tpu-vm scp --recurse "$files/$name" "$node:" "${where[@]}" \
      --worker=all || return
  done
  for node in "${nodes[@]}"; do
    on "$node" all "nohup setsid bash $name/host.sh > /dev/null 2>&1 < /dev/null &" ||
      return
  done
  rm -r "$files"
}

collect() {
  local node
  for node in "${nodes[@]}"; do
    mkdir -p "$name-logs/$node"
    on "$node" all "cat $name/log" --output-directory="$name-logs/$node" || true
  done
  echo "launch: the hosts' logs are in $name-logs" >&2
}

if [ "${1:-}" = stop ]; then
  for node in "${nodes[@]}"; do on "$node" all "bash $name/host.sh stop" || true; done
  exit
fi

created=
started=
said=
while true; do
  now=$(state)
  [ "$now" = "$said" ] || echo "launch: $(date -u +%FT%TZ) $name is $now" >&2
  said=$now
  case $now in
    MISSING)
      started=
      # After the first time, try until there is room.
      if create; then created=yes; continue; fi
      [ -n "$created" ] || exit 1
      ;;
    @@ready)
      created=yes
      if [ -z "$started" ]; then
        start && started=yes
      elif found=$(on "${nodes[0]}" 0 "cat $name/status 2> /dev/null || kill -0 \$(cat $name/pid)"); then
        if status=${found//[!0-9]/} && [ -n "$status" ]; then
          collect
          echo "launch: status $status; as long as it stands it costs: $cleanup" >&2
          exit "$status"
        fi
      else
        started= # not to be reached, or not running: start once more
      fi
      ;;
    @@gone)
      started=
      remove || true
      ;;
  esac
  sleep "${POLL_SECONDS:-60}"
done
