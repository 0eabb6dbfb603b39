. "$(dirname "$0")/../../lib/common.sh"; . "$(dirname "$0")/request.sh"
cd "$REPOSITORY" && "$PLATFORM_PYTHON" -m benchmarks.installation down exec
