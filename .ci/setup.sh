# .ci/setup.sh - sourced by test.sh and quickstart.sh: what has to be there before anything is built.
# setup_packages WANTED... [-- NICE...]: installs what is missing with apt; NICE packages only where apt has them.

BUILD_PACKAGES="build-essential cmake ninja-build pkg-config libopenblas-pthread-dev libsentencepiece-dev
    libzstd-dev libcjson-dev libzip-dev zlib1g-dev libcurl4-openssl-dev libglpk-dev"
export BUILD_PACKAGES

say() { printf '\n== %s\n' "$*"; }

setup_has() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q 'ok installed'; }

setup_can_get() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

setup_packages() {
    setup_missing='' setup_nice='' setup_list=missing setup_sudo=''
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        echo "This system has no apt. Install the equivalents of these Debian packages, then use --no-install:" >&2
        echo "$*" >&2
        return 2
    fi
    for setup_name; do
        if [ "$setup_name" = -- ]; then
            setup_list=nice
        elif ! setup_has "$setup_name"; then
            if [ $setup_list = nice ]; then
                setup_nice="$setup_nice $setup_name"
            elif [ "$setup_name" != libopenblas-pthread-dev ] || ! pkg-config --exists openblas 2>/dev/null; then
                setup_missing="$setup_missing $setup_name"
            fi
        fi
    done
    [ -n "$setup_missing$setup_nice" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            [ -n "$setup_missing" ] || return 0
            echo "Missing packages:$setup_missing. Run this as root, or install them and use --no-install." >&2
            return 2
        fi
        setup_sudo=sudo
    fi
    say "Installing packages:$setup_missing$setup_nice"
    $setup_sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q || return 1
    for setup_name in $setup_nice; do
        if setup_can_get "$setup_name"; then
            setup_missing="$setup_missing $setup_name"
        else
            echo "not in this distribution, the check that needs it will be skipped: $setup_name"
        fi
    done
    [ -n "$setup_missing" ] || return 0
    # shellcheck disable=SC2086
    $setup_sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $setup_missing
}

# Ninja for a new build folder where it is installed; an old folder keeps what it was made with.
setup_generator() {
    if command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
}
