#!/bin/bash
# stop.sh PEER...   stop what exec/PEER/start.sh started
. "$(dirname "$0")/lib/common.sh"
for peer in "$@"; do stop_peer "$peer"; done
