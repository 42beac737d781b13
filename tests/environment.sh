# What bin/test and .ci/ share, for bash: an interpreter, and environments made for it. To be sourced.

# Print the path of the Python that $PYTHON names, python3 where it names none.
# Called before any `cd`: what $PYTHON names may depend on the directory.
choose_python() {
    local named=${PYTHON:-python3}
    local print='import sys; sys.version_info >= (3, 9) or sys.exit("Python 3.9 or later is needed"); print(sys.executable)'
    "$named" -I -c "$print" || { echo "$0: $named cannot be used; PYTHON=/path/to/python chooses another" >&2; return 1; }
}

# Nothing of the user's reaches the interpreter, and pip installs where it is told to.
forget_python_settings() {
    unset "${!PYTHON@}" PIP_TARGET PIP_PREFIX PIP_ROOT
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
}

# Run a command, and show what it printed only where it fails.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || { printf '%s\n' "$output" >&2; return 1; }
}

# Make the virtual environment DIRECTORY with what REQUIREMENTS lists, for PYTHON, unless it is there already.
make_environment() {
    local directory=$1 requirements=$2 python=$3 wanted
    # Another build of the same version is another interpreter.
    wanted=$("$python" -I -c 'import sys; print(sys.base_prefix, sys.version)' && cat "$requirements")
    mkdir -p "$directory"
    (
        # Two runs in one checkout make it once.
        flock 9
        [ "$(cat "$directory/made-of" 2>/dev/null)" != "$wanted" ] || exit 0
        # Written last: what was broken off is made anew.
        quietly "$python" -I -m venv --clear "$directory" &&
            quietly "$directory/bin/python" -m pip install --requirement "$requirements" &&
            printf '%s\n' "$wanted" >"$directory/made-of"
    ) 9<"$directory"
}
