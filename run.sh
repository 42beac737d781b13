#!/bin/sh
# Serve the key-value database on localhost:4000, in the foreground. What it keeps lies in `store` beside this file.
# Options follow and win: `[PYTHON=/path/to/python] ./run.sh [OPTION ...]`
set -eu

here=$(dirname -- "$(readlink -f -- "$0")")
cd -- "$here"
exec "${PYTHON:-python3}" -m filestoraged serve --listen localhost:4000 --mount kv=/ --store "$here/store" "$@"
