VERSION="codexos, synced, 2 replicas"
PLATFORM_PYTHON="${PLATFORM_PYTHON:-$REPOSITORY/.venv/bin/python}"
REQ_METHOD=POST REQ_EXPECT='hello bench'
[ -f "$RUN/codexos.request" ] && . "$RUN/codexos.request"   # URL, key and body, as the last start made them
