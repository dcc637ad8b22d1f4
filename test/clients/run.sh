#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Unmodified clients against `mayfly serve`: installs the tools that are missing, then runs the
# suite. Arguments go to `go test`: run.sh -run 'TestClients/cosign_3', run.sh -args -mayfly PATH.
set -eu
cd "$(dirname "$0")"
./tools.sh
# The checks wait for processes and logs more than they compute, so that more of them run at a
# time than there are cores.
exec go test -count=1 -parallel 8 -timeout 10m -v . "$@"
