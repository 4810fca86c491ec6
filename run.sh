#!/bin/sh
# Installs what is missing, then starts the trader or its tests.
#   ./run.sh [sim|paper|production] [discovery|config] [market_limit] [-- flags of trader.py]
#   ./run.sh test [arguments of pytest]
# RUN_NO_INSTALL=1: where something is missing, only prints the commands that install it (code 3).
set -u
say() { printf 'run.sh: %s\n' "$*" >&2; }
CDPATH='' cd -- "$(dirname -- "$0")" || exit 3
needs=requirements.txt  # .venv keeps a copy of each of these files as it was when installed.
[ "${1-}" != test ] || needs='requirements.txt requirements-dev.txt'
find_python() {  # The first of the named interpreters that is 3.11 or newer.
    for python in "$@" python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    say 'Python 3.11 or newer, with its venv module, is needed and was not found'; exit 3
}
is_current() { for file in $needs; do cmp -s "$file" ".venv/$file" || return 1; done; }
is_ready() {  # Another Python that has the four packages may run the trader, not the tests.
    find_python .venv/bin/python
    "$python" -c 'import aiohttp, cryptography, dotenv, orjson' 2>/dev/null || return 1
    { [ "$python" != .venv/bin/python ] && [ "$needs" = requirements.txt ]; } || is_current
}
install() {
    make=''
    if is_current || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then  # damaged or absent
        find_python; make="$python -m venv --clear .venv"
    fi
    python=.venv/bin/python list=${needs##* }
    get="$python -m pip install --require-hashes --only-binary :all: -r $list && cp $needs .venv"
    [ -z "${RUN_NO_INSTALL-}" ] || { printf '%s\n' ${make:+"$make"} "$get"; exit 3; }
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    say "installing $list into .venv (once, and again when it changes)"
    eval "${make:-:} && $get" >&2 || { say 'the installation failed, see above'; exit 3; }
}
has() {  # One of the names $1 (a|b) has a value: in the environment, in .env or in file $2.
    { env; cat .env "$2"; } 2>/dev/null | grep -Eq "^ *(export +)?($1) *= *[\"']?[^\"'# ]"
}
step() { "$python" -m "$@" || { code=$?; say "$1 failed with code $code"; exit "$code"; }; }
if ! is_ready; then
    exec 9<requirements.txt  # One install at a time: cron may start a second run.sh meanwhile.
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 9<&9
    is_ready || install; exec 9<&-
fi
if [ "${1-}" = test ]; then
    shift; step ruff check .; step mypy --strict trader.py sim_exchange.py
    step pytest -n 2 --dist loadgroup "$@"; say 'ruff, mypy and pytest passed'; exit
fi
environment='' mode='' limit=''
for name in environment mode limit; do
    case ${1--} in -*) ;; *) eval "$name=\$1"; shift ;; esac; done
[ "${1-}" != -- ] || shift; rest=$*
if [ -z "$environment" ] && [ "${rest#*--env}" = "$rest" ] && ! has ENVIRONMENT /dev/null; then
    environment=sim why='no Kalshi key found: starting sim, the built-in exchange (no money)'
    has KALSHI_API_KEY_ID .env.paper &&
        has 'KALSHI_KEY_FILE|KALSHI_PRIVATE_KEY_CONTENT' .env.paper &&
        environment=paper why='Kalshi key found: starting paper (mock money)'
    say "$why"
fi
set -- ${mode:+--mode "$mode"} ${limit:+--markets "$limit"} "$@"
exec "$python" -m trader ${environment:+--env "$environment"} "$@"
