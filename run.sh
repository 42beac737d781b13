#!/bin/sh
# Serve the key-value database on localhost:4000, in the foreground. What it keeps lies in `store` beside this file.
# Options follow and win: `[PYTHON=/path/to/python] ./run.sh [OPTION ...]`. A `--listen` or a `--mount` takes the place of
# the one below.
set -eu

here=$(dirname -- "$(readlink -f -- "$0")")
listen=no mount=no
# These may be repeated, so the daemon would take both: the one below and the one given.
for option in "$@"; do
    case $option in
        --listen | --listen=*) listen=given ;;
        --mount | --mount=*) mount=given ;;
    esac
done
[ "$mount" = given ] || set -- --mount kv=/ "$@"
[ "$listen" = given ] || set -- --listen localhost:4000 "$@"
cd -- "$here"
exec "${PYTHON:-python3}" -m filestoraged serve --store "$here/store" "$@"
