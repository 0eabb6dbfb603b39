#!/bin/bash
# setup.sh [peer...]   install each peer into $BENCH_WORK; nothing to do the second time
. "$(dirname "$0")/lib/common.sh"
[ $# -gt 0 ] || set -- bare hayhooks celery dbos dbos-pg codexos
failures=0
for peer in "$@"; do
  echo "== $peer"
  bash "$PEERS_ROOT/exec/$peer/setup.sh" || { echo "$peer: setup failed" >&2; failures=1; }
done
exit $failures
