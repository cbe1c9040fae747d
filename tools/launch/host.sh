#!/usr/bin/env bash
# On each host: install jaxlm, then run one command, and again when it ends with 75
# (stopped after saving). A host that was lost ends the others with 128 or more: again,
# at most ten times. Any other status is final; it is left in `status`.
#
#   bash host.sh           start, unless it runs already
#   bash host.sh stop      save and end
set -u
here=$(cd "$(dirname "$0")" && pwd) && cd "$here" || exit 1

if [ "${1:-}" = stop ]; then
  kill "$(cat pid)"
  exit
fi
exec 9>lock
flock -n 9 || exit 0
echo $BASHPID > pid
rm -f status
exec >> log 2>&1

say() { echo "launch: $(date -u +%FT%TZ) $*"; }
end() {
  say "ended with status $1"
  echo "$1" > status.new && mv status.new status
  exit "$1"
}

@@install
install || end 1

stopped=
child=
trap 'stopped=yes; [ -z "$child" ] || kill "$child"' TERM INT

lost=0
while true; do
  bin/jaxlm @@words 9>&- &
  child=$!
  # A signal ends `wait` early.
  wait "$child" && status=0 || status=$?
  while kill -0 "$child" 2> /dev/null; do
    wait "$child" && status=0 || status=$?
  done
  [ -z "$stopped" ] || end "$status"
  if [ "$status" -eq 75 ]; then
    lost=0
  elif [ "$status" -lt 128 ] || [ $((lost += 1)) -gt 10 ]; then
    end "$status"
  fi
  say "status $status: the same command goes on"
done
