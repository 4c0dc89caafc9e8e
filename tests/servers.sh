# shellcheck shell=bash
# Servers on private loopback ports, with their data in a temporary folder: sourced by tests/run and by benches.
# No server that happens to run is used.

PATH="$PATH:/usr/sbin:/usr/local/sbin"
servers=()     # "signal pid" of each server started
folder=

make_folder() {
  folder=$(mktemp -d "${TMPDIR:-/tmp}/outbox-relay-tests.XXXXXX")
  chmod 755 "$folder" # the server's user must get through
}

stop_servers() {
  local server
  # Each entry is a signal and a pid: two words by intention.
  # shellcheck disable=SC2086
  for server in "${servers[@]}"; do kill -s $server 2>/dev/null || true; done
  wait
  rm -rf "$folder"
}

fail() {
  printf '%s: %s\n' "$0" "$1" >&2
  exit "${2:-1}"
}

# --- what the tests need -------------------------------------------------------------------------------------

# install_missing COMMAND…: COMMAND is this run once more, for a container.
install_missing() {
  local packages=()
  postgres_programs >/dev/null || packages+=(postgresql)
  have nats-server || packages+=(nats-server)
  have pgbouncer || packages+=(pgbouncer)
  have openssl || packages+=(openssl)
  have cc || packages+=(gcc libc6-dev)

  if ((${#packages[@]})); then
    if [[ $(id -u) == 0 ]] && have apt-get; then
      printf '== installing %s\n' "${packages[*]}"
      # RUNLEVEL=1: the packages' own services stay down; the tests start their own servers.
      export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
      apt-get update -qq
      apt-get install -qq --no-install-recommends "${packages[@]}" >/dev/null
    elif have docker && docker info >/dev/null 2>&1; then
      printf '== missing here: %s; running in a container instead\n' "${packages[*]}"
      exec docker run --rm --init -v "$PWD:/checkout" -w /checkout \
        -v outbox-relay-target:/target -e CARGO_TARGET_DIR=/target \
        -v outbox-relay-registry:/usr/local/cargo/registry \
        rust:1-bookworm "$@"
    else
      fail "missing: ${packages[*]} (names of Debian packages). Install them, or run this as root on Debian, \
or with a Docker engine."
    fi
  fi

  have cargo || fail "cargo is missing. Install Rust from https://rustup.rs:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    have rustup || fail "rustfmt and clippy are missing: install those of your Rust."
    rustup component add rustfmt clippy
  fi
}

have() { command -v "$1" >/dev/null; }

# The folder with initdb and postgres: Debian keeps it out of the PATH.
postgres_programs() {
  local folder newest=
  for folder in /usr/lib/postgresql/*/bin; do
    [[ -x $folder/initdb ]] && newest=$folder
  done
  if [[ -z $newest ]] && have initdb; then
    newest=$(dirname "$(readlink -f "$(command -v initdb)")")
  fi
  [[ $newest ]] && printf '%s\n' "$newest"
}

# --- servers -------------------------------------------------------------------------------------------------

start_postgres() {
  local programs port data=$folder/postgres as=()
  programs=$(postgres_programs)
  port=$(free_port)
  mkdir "$data"
  if [[ $(id -u) == 0 ]]; then # PostgreSQL refuses to run as root
    as=(--reuid=postgres --regid=postgres --clear-groups)
    chown postgres: "$data"
  fi
  setpriv "${as[@]}" --no-new-privs "$programs/initdb" -D "$data" -U postgres -A trust -E UTF8 --no-locale \
    --no-sync >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; fail "initdb failed"; }
  # fsync=off (unless a bench says otherwise): tests kill servers, not machines, and what a process has written survives its death.
  # full_page_writes and synchronous_commit stay on: what becomes visible when, and what is flushed when, is
  # among the things under test. wal_level=logical: a subscription's tables are refused, by a test.
  start postgres INT "${as[@]}" -- "$programs/postgres" -D "$data" -p "$port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync="${fsync:-off}" -c max_connections=200 \
    -c max_prepared_transactions=20 -c wal_level=logical
  await postgres "$programs/pg_isready" -q -h 127.0.0.1 -p "$port"
  export OUTBOX_TEST_POSTGRES=postgres://postgres@127.0.0.1:$port/postgres
  printf '%s\n' "$("$programs/postgres" --version), $OUTBOX_TEST_POSTGRES"
}

start_nats() {
  local port monitor
  port=$(free_port)
  monitor=$(free_port)
  cat >"$folder/nats.conf" <<CONF
listen: 127.0.0.1:$port
http: 127.0.0.1:$monitor
jetstream { store_dir: "$folder/nats" }
CONF
  start nats TERM -- nats-server -c "$folder/nats.conf"
  await nats answers "$monitor" /healthz
  export OUTBOX_TEST_NATS=nats://127.0.0.1:$port OUTBOX_TEST_NATS_MONITOR=http://127.0.0.1:$monitor
  printf '%s\n' "$(nats-server --version), $OUTBOX_TEST_NATS"
}

# start NAME SIGNAL [OPTIONS OF setpriv] -- COMMAND…: in the background; SIGNAL stops it.
start() {
  local name=$1 signal=$2 death=()
  shift 2
  # Not even if this script is killed do they stay.
  ${keep:-false} || death=(--pdeathsig "$signal")
  # A session of its own, so that an interrupt in the terminal reaches this script first.
  setsid setpriv --no-new-privs "${death[@]}" "$@" >"$folder/$name.log" 2>&1 &
  servers+=("$signal $!")
}

# await NAME COMMAND…: until the command succeeds.
await() {
  local name=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" 2>/dev/null; do
    if ((SECONDS > deadline)) || ! kill -0 $! 2>/dev/null; then
      tail -n 20 "$folder/$name.log" >&2
      fail "$name did not start"
    fi
    sleep 0.1
  done
}

# A port of 127.0.0.1 that nobody listens on, below those that the kernel hands out to clients.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%d\n' "$port"
}

# answers PORT PATH: whether an HTTP server there says 200. Not every machine has curl.
answers() {
  local line
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
  read -r line <&3 || true
  exec 3>&-
  [[ $line == *' 200 '* ]]
}
