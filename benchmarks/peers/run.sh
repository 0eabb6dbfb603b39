#!/bin/bash
# run.sh [peer...]   each peer in turn and alone: start, check the answer, warm up, wrk at each concurrency, stop.
# Appends a row for each concurrency to RESULTS. Knobs: CONC="1 16 64"  SECS=8  WARM=3  RESULTS=FILE
. "$(dirname "$0")/lib/common.sh"
: "${CONC:=1 16 64}" "${SECS:=8}" "${WARM:=3}" "${RESULTS:=$BENCH_WORK/peers.tsv}"
command -v wrk > /dev/null || { echo "wrk is missing: apt-get install wrk" >&2; exit 2; }
[ -s "$RESULTS" ] || printf '%s\t' peer version c req_s p50_ms p99_ms errors rss_mb pss_mb cpu_ms_per_req processes startup_s \
  | sed 's/$/calib_ms\n/' > "$RESULTS"
[ $# -gt 0 ] || set -- bare hayhooks celery dbos-pg codexos

measure() { # measure PEER CONCURRENCY
  local before after
  before=$(used "$1" | cut -f3)
  IFS=$'\t' read -r _ rps p50 p99 bad sock n <<< "$(load "$2" "$SECS")"
  IFS=$'\t' read -r rss pss after np <<< "$(used "$1")"
  cpu=$(awk -v a="$before" -v b="$after" -v n="$n" 'BEGIN{printf "%.2f", n?(b-a)*1000/n:0}')
  printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$VERSION" "$2" "$rps" "$p50" "$p99" \
    "$((bad+sock))" "$rss" "$pss" "$cpu" "$np" "$(cat "$RUN/$1.startup")" "$calib" | tee -a "$RESULTS"
}
load() { wrk -t1 -c"$1" -d"${2}s" --timeout 30s -s "$PEERS_ROOT/lib/req.lua" "$REQ_URL" | grep ^RESULT; }
ask() { curl -s -m 30 -X "$REQ_METHOD" -H 'Content-Type: application/json' ${REQ_HEADERS:+-H "$REQ_HEADERS"} -d "$REQ_BODY" "$REQ_URL"; }

run() { # run PEER
  local folder="$PEERS_ROOT/exec/$1" answer c
  unset REQ_HEADERS REQ_BODY REQ_URL REQ_METHOD REQ_EXPECT VERSION
  calib=$("$PYTHON" "$PEERS_ROOT/lib/calib.py")
  bash "$folder/start.sh" || return 1
  . "$folder/request.sh"; export REQ_METHOD REQ_BODY REQ_HEADERS="${REQ_HEADERS:-}"
  answer=$(ask)
  case "$answer" in *"$REQ_EXPECT"*) ;; *) echo "$1: wrong answer: ${answer:0:300}" >&2; return 1;; esac
  load 4 "$WARM" > /dev/null
  for c in $CONC; do measure "$1" "$c"; done
}

current=""; failures=0
trap '[ -n "$current" ] && stop_peer "$current"' EXIT
trap 'exit 130' INT TERM
for peer in "$@"; do
  [ -f "$PEERS_ROOT/exec/$peer/start.sh" ] || { echo "$peer: there is no such peer" >&2; exit 2; }
  current="$peer"
  run "$peer" || failures=1
  stop_peer "$peer"; current=""
done
exit $failures
