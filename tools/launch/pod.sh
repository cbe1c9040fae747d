cd "${HOME:-/root}" || exit 1
trap 'exit 75' TERM
@@install
install || exit 1
bin/jaxlm "$@" &
child=$!
# As process 1, bash passes no signals on. jaxlm saves after the first SIGTERM, and
# would end at once after a second.
trap 'trap "" TERM; kill "$child"' TERM
wait "$child" && status=0 || status=$?
while kill -0 "$child" 2> /dev/null; do
  wait "$child" && status=0 || status=$?
done
exit "$status"
