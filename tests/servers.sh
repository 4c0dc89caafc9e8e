# shellcheck shell=bash
# Servers on private loopback ports, with their data in a temporary folder: sourced by tests/run and by benches.
# No server that happens to run is used.

PATH="$PATH:/usr/sbin:/usr/local/sbin"
servers=()     # "signal pid" of each server started
folder=
kafka_ports=() # PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL, and the controller's
kafka_pid=

make_folder() {
  folder=$(mktemp -d "${TMPDIR:-/tmp}/outbox-relay-tests.XXXXXX")
  chmod 755 "$folder" # the server's user must get through
}

stop_servers() {
  local server
  # Each entry is a signal and a pid: two words by intention.
  # shellcheck disable=SC2086
  for server in "${servers[@]}"; do kill -s $server 2>/dev/null || true; done
  wait 2>/dev/null # and not a word on how each ended
  rm -rf "$folder"
}

fail() {
  printf '%s: %s\n' "$0" "$1" >&2
  exit "${2:-1}"
}

# --- what the tests need -------------------------------------------------------------------------------------

# install_missing [COMMAND…]: COMMAND is this run once more, for a container. Without it there is none.
install_missing() {
  local packages=()
  postgres_programs >/dev/null || packages+=(postgresql)
  have nats-server || packages+=(nats-server)
  have pgbouncer || packages+=(pgbouncer)
  rabbitmq_programs >/dev/null || packages+=(rabbitmq-server)
  have curl || packages+=(curl)
  have kcat || packages+=(kcat)
  have openssl || packages+=(openssl)
  have chromium || packages+=(chromium)
  have chromedriver || packages+=(chromium-driver)
  have java || packages+=(default-jre-headless)
  have mvn || packages+=(maven)
  have cc || packages+=(gcc libc6-dev)
  have c++ || packages+=(g++)
  have make || packages+=(make)
  have perl || packages+=(perl)

  if ((${#packages[@]})); then
    if [[ $(id -u) == 0 ]] && have apt-get; then
      printf '== installing %s\n' "${packages[*]}"
      # The packages' own services stay down, epmd's too; the tests start their own servers.
      export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
      local policy=/usr/sbin/policy-rc.d
      if [[ -e $policy ]]; then policy=; else
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        # shellcheck disable=SC2064 # the value of now
        trap "rm -f $policy" EXIT
      fi
      apt-get update -qq
      apt-get install -qq --no-install-recommends "${packages[@]}" >/dev/null
      if [[ $policy ]]; then
        rm -f "$policy"
        trap - EXIT
      fi
    elif (($#)) && have docker && docker info >/dev/null 2>&1; then
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

# promtool checks the alert rules. Debian has it within Prometheus, of which nothing else is needed: it is fetched once,
# and not installed. Where it can't be had, that test says so.
find_promtool() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/outbox-relay new
  if have promtool; then
    OUTBOX_TEST_PROMTOOL=$(command -v promtool)
  elif [[ -x $cache/promtool ]]; then
    OUTBOX_TEST_PROMTOOL=$cache/promtool
  elif have apt-get && have dpkg-deb; then
    printf '== fetching promtool\n'
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/new.XXXXXX")
    if (cd "$new" && timeout 120 apt-get download -qq prometheus >/dev/null 2>&1 &&
      dpkg-deb --extract ./*.deb . && mv usr/bin/promtool "$cache/promtool"); then
      OUTBOX_TEST_PROMTOOL=$cache/promtool
    fi
    rm -rf "$new"
  fi
  if [[ ${OUTBOX_TEST_PROMTOOL:-} ]]; then export OUTBOX_TEST_PROMTOOL; fi
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

# The folder with rabbitmq-server and rabbitmqctl themselves: those in the PATH are wrappers that become another user.
rabbitmq_programs() {
  [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] && have epmd && printf '/usr/lib/rabbitmq/bin\n'
}

# --- servers -------------------------------------------------------------------------------------------------

# init_postgres FOLDER: the files of a PostgreSQL. It says in as_postgres who its programs are to be run as, in options of
# setpriv.
init_postgres() {
  as_postgres=()
  mkdir "$1"
  if [[ $(id -u) == 0 ]]; then # PostgreSQL refuses to run as root
    as_postgres=(--reuid=postgres --regid=postgres --clear-groups)
    chown postgres: "$1"
  fi
  setpriv "${as_postgres[@]}" --no-new-privs "$(postgres_programs)/initdb" -D "$1" -U postgres -A trust -E UTF8 --no-locale \
    --no-sync >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; fail "initdb failed"; }
}

# start_postgres [PORT]: with the options in postgres_options, if there are any.
start_postgres() {
  local programs port=${1:-$(free_port)} data=$folder/postgres
  programs=$(postgres_programs)
  init_postgres "$data"
  # fsync=off (unless a bench says otherwise): tests kill servers, not machines, and what a process has written survives its death.
  # full_page_writes and synchronous_commit stay on: what becomes visible when, and what is flushed when, is
  # among the things under test. wal_level=logical: a subscription's tables are refused, by a test.
  start postgres INT "${as_postgres[@]}" -- "$programs/postgres" -D "$data" -p "$port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync="${fsync:-off}" -c max_connections=200 \
    -c max_prepared_transactions=20 -c wal_level=logical ${postgres_options[@]+"${postgres_options[@]}"}
  await postgres "$programs/pg_isready" -q -h 127.0.0.1 -p "$port"
  export OUTBOX_TEST_POSTGRES=postgres://postgres@127.0.0.1:$port/postgres
  printf '%s\n' "$("$programs/postgres" --version), $OUTBOX_TEST_POSTGRES"
}

# start_nats [PORT MONITOR]
start_nats() {
  local port=${1:-$(free_port)} monitor=${2:-$(free_port)}
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

# start_rabbitmq [PORT MANAGEMENT]: and doesn't wait for it, for it takes as long as a build. await_rabbitmq does.
# Without a port for it the management plugin stays off.
start_rabbitmq() {
  local programs home=$folder/rabbitmq as=() environment epmd dist node
  programs=$(rabbitmq_programs)
  rabbitmq_port=${1:-$(free_port)}
  epmd=$(free_port)
  dist=$(free_port)
  node=outbox-tests-$rabbitmq_port@localhost
  mkdir "$home"
  # A test must be able to send a message that is too large.
  cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$rabbitmq_port
max_message_size = 1048576
CONF
  : >"$home/plugins"
  if [[ ${2:-} ]]; then
    printf 'management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\n' "$2" >>"$home/rabbitmq.conf"
    printf '[rabbitmq_management].\n' >"$home/plugins"
  fi
  if [[ $(id -u) == 0 ]]; then
    as=(--reuid=rabbitmq --regid=rabbitmq --clear-groups)
    chown -R rabbitmq: "$home"
  fi
  start epmd TERM "${as[@]}" -- epmd -address 127.0.0.1 -port "$epmd"
  environment=(HOME="$home" ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1
    RABBITMQ_NODENAME="$node" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$rabbitmq_port"
    RABBITMQ_DIST_PORT="$dist" RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
    RABBITMQ_MNESIA_BASE="$home/mnesia" RABBITMQ_LOG_BASE="$home/log"
    RABBITMQ_PID_FILE="$home/pid" RABBITMQ_ENABLED_PLUGINS_FILE="$home/plugins"
    RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE=/dev/null
    RABBITMQ_ALLOW_INPUT=1) # the script then becomes the server, instead of waiting for it
  # KILL: an orderly stop takes seconds, and its data is thrown away.
  start rabbitmq KILL "${as[@]}" -- env "${environment[@]}" "$programs/rabbitmq-server" -noinput
  rabbitmq_pid=$!
  export OUTBOX_TEST_RABBITMQ=amqp://127.0.0.1:$rabbitmq_port
}

await_rabbitmq() {
  await_pid "$rabbitmq_pid" rabbitmq greets "$rabbitmq_port"
  printf '%s\n' "RabbitMQ, $OUTBOX_TEST_RABBITMQ"
}

# greets PORT: whether an AMQP broker there begins its handshake, with a method on channel 0.
greets() {
  local first
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'AMQP\0\0\011\001' >&3
  IFS= read -r -n 1 -t 2 first <&3 || true
  exec 3>&-
  [[ $first == $'\001' ]]
}

# begin_kafka [PORT]: and doesn't wait for the broker, await_kafka does. Without the jars of Apache Kafka, tests use
# librdkafka's mock cluster where they can.
begin_kafka() {
  local jars
  if ! jars=$(kafka_jars); then
    printf '%s\n' "Apache Kafka's jars can't be had (see above): librdkafka's mock cluster stands in for it"
    export OUTBOX_TEST_KAFKA_FALLBACK=1
    return
  fi
  mkdir "$folder/kafka"
  kafka_ports=("${1:-$(free_port)}" "$(free_port)" "$(free_port)" "$(free_port)" "$(free_port)")
  # KILL: its data is thrown away.
  start kafka KILL -- tests/kafka/broker "$jars" "$folder/kafka" "${kafka_ports[@]}"
  kafka_pid=$!
  export OUTBOX_TEST_KAFKA_JARS=$jars OUTBOX_TEST_KAFKA_FOLDER=$folder/kafka
  export OUTBOX_TEST_KAFKA=127.0.0.1:${kafka_ports[0]} OUTBOX_TEST_KAFKA_SSL=localhost:${kafka_ports[1]}
  export OUTBOX_TEST_KAFKA_SASL=127.0.0.1:${kafka_ports[2]} OUTBOX_TEST_KAFKA_SASL_SSL=localhost:${kafka_ports[3]}
  printf 'a broker is on its way at %s\n' "$OUTBOX_TEST_KAFKA"
}

await_kafka() {
  if [[ ${OUTBOX_TEST_KAFKA_FALLBACK:-} ]]; then
    printf "librdkafka's mock cluster, not Apache Kafka\n"
    return
  fi
  local port deadline=$((SECONDS + 120))
  for port in "${kafka_ports[@]:0:4}"; do
    until listens "$port"; do
      if ((SECONDS > deadline)) || ! kill -0 "$kafka_pid" 2>/dev/null; then
        tail -n 20 "$folder/kafka.log" >&2
        fail "kafka did not start"
      fi
      sleep 0.2
    done
  done
  printf 'Apache Kafka %s, %s\n' "$(kafka_version)" "$OUTBOX_TEST_KAFKA"
}

# The folder with the jars of Apache Kafka's broker. They are fetched once, by Maven, which checks them.
kafka_jars() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/outbox-relay jars new
  jars=$cache/kafka-$(kafka_version)
  if [[ ! -d $jars ]]; then
    have mvn && have java || return
    printf '== fetching Apache Kafka %s\n' "$(kafka_version)" >&2
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/new.XXXXXX")
    # Refused if a checksum is wrong; given up, and not tried again, if it takes minutes.
    if ! timeout 300 mvn --batch-mode --quiet --strict-checksums --file tests/kafka/pom.xml \
      dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$new" >&2; then
      rm -rf "$new"
      return 1
    fi
    # Whole, or not there: two runs may fetch at a time.
    mv -T "$new" "$jars" 2>/dev/null || rm -rf "$new"
  fi
  printf '%s\n' "$jars"
}

# The first version in the file is that of the broker.
kafka_version() {
  local line
  while read -r line; do
    if [[ $line == '<artifactId>kafka_'* ]]; then
      read -r line
      line=${line#<version>}
      printf '%s\n' "${line%</version>}"
      return
    fi
  done <tests/kafka/pom.xml
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

# await NAME COMMAND…: until the command succeeds. NAME was started last.
await() { await_pid $! "$@"; }

# await_pid PID NAME COMMAND…: the same for any server.
await_pid() {
  local pid=$1 name=$2 deadline=$((SECONDS + 60))
  shift 2
  until "$@" 2>/dev/null; do
    if ((SECONDS > deadline)) || ! kill -0 "$pid" 2>/dev/null; then
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
    listens "$port" || grep -qsx "$port" "$folder/ports" || break
  done
  # Nobody listens there yet, and the next call is in another subshell.
  printf '%d\n' "$port" | tee -a "$folder/ports"
}

# listens PORT: whether somebody does.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# answers PORT PATH: whether an HTTP server there says 200. Not every machine has curl.
answers() {
  local line
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
  read -r line <&3 || true
  exec 3>&-
  [[ $line == *' 200 '* ]]
}
