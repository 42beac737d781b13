# Paths that bin/install and bin/uninstall share. To be sourced.
# shellcheck disable=SC2034

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX%/}
DESTDIR=${DESTDIR%/}

# In the order of stopping: a unit that is stopped cannot start one of those after it.
UNITS=(filestoraged-check.timer filestoraged.socket filestoraged-check.service filestoraged.service)

# As the installed machine sees them. During the installation, each is below $DESTDIR.
ENVIRONMENT=$PREFIX/lib/filestoraged
COMMAND=$PREFIX/bin/filestoraged
MANUAL=$PREFIX/share/man
MANUAL_PAGES=(man1/filestoraged.1 man5/filestoraged.conf.5)
# The files in which each shell looks for the completion of the command.
declare -A COMPLETIONS=(
    [bash]=$PREFIX/share/bash-completion/completions/filestoraged
    [zsh]=$PREFIX/share/zsh/site-functions/_filestoraged
    [fish]=$PREFIX/share/fish/vendor_completions.d/filestoraged.fish
)
CONFIGURATION=/etc/filestoraged.conf
case $PREFIX in
    # systemd reads units from these.
    /usr | /usr/local) UNIT_DIRECTORY=$PREFIX/lib/systemd/system ;;
    *) UNIT_DIRECTORY=/etc/systemd/system ;;
esac

die() {
    echo "$0: $*" >&2
    exit 1
}

check_paths() {
    [ "$(id -u)" = 0 ] || [ -n "$DESTDIR" ] || die "root is required: run sudo $0, or set DESTDIR to make a package"
    # Scripts and units contain it, and would need different quotes for other characters.
    [[ $PREFIX =~ ^(/[A-Za-z0-9._+-]+)+$ ]] ||
        die "invalid PREFIX '$PREFIX': expected a path such as /usr/local or /opt/filestoraged"
    [[ $DESTDIR =~ ^(/.*)?$ ]] || die "invalid DESTDIR '$DESTDIR': expected an absolute path"
}

# Whether the installation is for this machine, and systemd runs on it.
manages_systemd() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}
