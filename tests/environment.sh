# Functions of bin/test, bin/bench and .ci/: choose an interpreter, make virtual environments, install Debian packages.
# Source this file in bash.

POLICY=/usr/sbin/policy-rc.d
# Packages and environments that could not be installed.
missing=()

# Print the path of the Python that $PYTHON names, python3 where it names none.
# Call it before any `cd`: $PYTHON may be a relative path.
choose_python() {
    local named=${PYTHON:-python3}
    local print='import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed"); print(sys.executable)'
    "$named" -I -c "$print" || { echo "$0: $named cannot be used; PYTHON=/path/to/python chooses another" >&2; return 1; }
}

# Clear the user's settings of Python and pip, so that pip installs into the environment.
forget_python_settings() {
    unset "${!PYTHON@}" PIP_TARGET PIP_PREFIX PIP_ROOT
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
}

# Run a command, and print its output only if it fails.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || { printf '%s\n' "$output" >&2; return 1; }
}

# Make the virtual environment DIRECTORY for PYTHON with the packages in REQUIREMENTS, unless it is up to date.
make_environment() {
    local directory=$1 requirements=$2 python=$3 wanted
    # Another build of the same Python version makes another environment.
    wanted=$("$python" -I -c 'import sys; print(sys.base_prefix, sys.version)' && cat "$requirements")
    mkdir -p "$directory"
    (
        # Of two runs in one checkout, one makes it and the other waits.
        flock 9
        [ "$(cat "$directory/made-of" 2>/dev/null)" != "$wanted" ] || exit 0
        # Written last, so that an interrupted run makes it again.
        quietly "$python" -I -m venv --clear "$directory" &&
            quietly "$directory/bin/python" -m pip install --requirement "$requirements" &&
            printf '%s\n' "$wanted" >"$directory/made-of"
    ) 9<"$directory"
}

# Install the packages of npm that PACKAGES lists into DIRECTORY, unless they are there.
install_node_modules() {
    local directory=$1 packages=$2
    mkdir -p "$directory"
    (
        flock 9
        cmp --silent "$packages" "$directory/made-of" && exit 0
        # Written last, so that an interrupted run installs them again.
        cp "$packages" "$directory/package.json" &&
            quietly npm install --prefix "$directory" --no-audit --no-fund --no-update-notifier &&
            cp "$packages" "$directory/made-of"
    ) 9<"$directory"
}

# Install the missing Debian packages of those in the file PROGRAMS, and record those that cannot be installed.
install_packages() {
    local packages
    packages=$(missing_packages "$@")
    if [ -n "$packages" ] && may_install; then
        # shellcheck disable=SC2086
        install_debian $packages
        packages=$(missing_packages "$@")
    fi
    for package in $packages; do
        missing+=("Debian's $package")
    done
}

missing_packages() {
    local programs=$1 python=$2 version=$3 program package
    # venv needs ensurepip, which is a separate package in Debian.
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    grep -v '^#' "$programs" | while read -r program package; do
        command -v "$program" >/dev/null || echo "$package"
    done | sort -u
}

may_install() {
    command -v apt-get >/dev/null && as_root true 2>/dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# One by one, so that an unavailable package does not prevent the others.
install_debian() {
    local package
    echo "$0: installing $*" >&2
    hold_services
    quietly as_root apt-get -qq update || true
    for package; do
        # needrestart would restart unrelated services.
        quietly as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
            apt-get -qq --yes --no-install-recommends -o DPkg::Lock::Timeout=120 install "$package" || true
    done
    for package; do
        # A package's service must not start at the next boot either. Most packages have none.
        as_root systemctl --quiet disable --now "$package.service" >/dev/null 2>&1 || true
    done
    release_services
}

# Keep Debian from starting the services that it installs: the tests start their own. An existing policy stays.
hold_services() {
    [ ! -e "$POLICY" ] && [ ! -L "$POLICY" ] || return 0
    trap release_services EXIT
    as_root sh -c 'set -C; printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$POLICY" || trap - EXIT
}

release_services() {
    [ -n "$(trap -p EXIT)" ] || return 0
    trap - EXIT
    as_root rm -f "$POLICY"
}

name_missing() {
    local each
    for each in ${missing[@]+"${missing[@]}"}; do
        echo "$0: cannot install $each" >&2
    done
}
