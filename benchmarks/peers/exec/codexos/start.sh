. "$(dirname "$0")/../../lib/common.sh"; . "$(dirname "$0")/request.sh"
bash "$(dirname "$0")/setup.sh" || exit 1
begin codexos; cd "$REPOSITORY"
"$PLATFORM_PYTHON" -m benchmarks.installation up exec "$RUN/codexos" >> "$RUN/codexos.log" 2>&1 || { failed codexos "did not start"; exit 1; }
. "$RUN/codexos.request"
ready codexos 10 curl -sf -m 5 -o /dev/null -H 'Content-Type: application/json' -H "$REQ_HEADERS" -d "$REQ_BODY" "$REQ_URL"
