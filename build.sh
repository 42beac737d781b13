#!/bin/sh
# There is nothing to build: this sees that what run.sh needs is there. `[PYTHON=/path/to/python] ./build.sh`
set -eu

python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "$0: $python is not there; install Python 3.11 or later" >&2; exit 1; }
"$python" -I -c '
import sys
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0])
import sqlite3
print("nothing to build: Python %s with SQLite %s runs it" % (sys.version.split()[0], sqlite3.sqlite_version))
'
