. "$(dirname "$0")/../../lib/common.sh"; . "$(dirname "$0")/request.sh"
[ -x "$PLATFORM_PYTHON" ] || { echo "codexos: $PLATFORM_PYTHON is missing: make up once" >&2; exit 1; }
cd "$REPOSITORY" && "$PLATFORM_PYTHON" -m benchmarks.installation prepare exec
