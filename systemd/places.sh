# Where bin/install puts things, and bin/uninstall finds them. To be sourced.
# shellcheck disable=SC2034

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX%/}
DESTDIR=${DESTDIR%/}

# What is stopped first cannot start what is stopped next.
UNITS=(filestoraged-check.timer filestoraged.socket filestoraged-check.service filestoraged.service)

# As the machine that runs it sees them. Here, each is below $DESTDIR.
ENVIRONMENT=$PREFIX/lib/filestoraged
COMMAND=$PREFIX/bin/filestoraged
MANUAL=$PREFIX/share/man
MANUAL_PAGES=(man1/filestoraged.1 man5/filestoraged.conf.5)
CONFIGURATION=/etc/filestoraged.conf
case $PREFIX in
    # systemd looks into those.
    /usr | /usr/local) UNIT_DIRECTORY=$PREFIX/lib/systemd/system ;;
    *) UNIT_DIRECTORY=/etc/systemd/system ;;
esac

die() {
    echo "$0: $*" >&2
    exit 1
}

check_places() {
    [ "$(id -u)" = 0 ] || [ -n "$DESTDIR" ] || die "Only root can do that: sudo $0. A packager sets DESTDIR=."
    # It stands in scripts and units, where other characters would need quotes, each in its own way.
    [[ $PREFIX =~ ^(/[A-Za-z0-9._+-]+)+$ ]] || die "PREFIX=$PREFIX is no path such as /usr/local or /opt/filestoraged."
    [[ $DESTDIR =~ ^(/.*)?$ ]] || die "DESTDIR=$DESTDIR does not begin with a slash."
}

# Whether the machine that is installed to is this one, and has a systemd that can be told.
manages_systemd() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}
