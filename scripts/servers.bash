# A Redis, and a respgres in front of it, for one run of somebody's tests. Sourced; the script sets
# PROGRAM and CONFIG (for respgres), and calls stop_running when it ends, however it ends.
#
#   free_ports                             the first of a few ports that nobody listens on
#   start_redis PORT DIRECTORY LOG         false, and the log in LOG, when it does not start
#   start_respgres PORT REDIS_PORT LOG     the same, before the Redis on REDIS_PORT
#   RUNNING, stop_running                  what was started, last first, and its end
# shellcheck shell=bash

# Waits until a server answers PING; gives up when the process is gone.
answers() {
    local port=$1 pid=$2
    for _ in {1..100}; do
        [[ $(redis-cli -p "$port" PING 2>/dev/null) == PONG ]] && return 0
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

# A port that nobody listens on, and then 50 more of them for the suite's own use.
free_ports() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null &&
            ! (exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    echo 'no free port' >&2
    return 1
}

# Ends processes by their ids, gently at first: a Redis that runs an endless script ignores that.
end_processes() {
    local pid
    for pid in "$@"; do
        kill -TERM "$pid" 2>/dev/null || continue
        for _ in {1..20}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.05
        done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}

RUNNING=()

start_redis() {
    local port=$1 directory=$2 log=$3
    redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$directory" \
        --enable-debug-command yes --enable-module-command yes >"$log" 2>&1 &
    RUNNING=("$!" "${RUNNING[@]}")
    answers "$port" "${RUNNING[0]}"
}

# Where there is a Postgres (STORES, of stores.bash), a database of its own goes with it. Mappings that
# say nothing else have the strategy STRATEGY, if there is one.
STRATEGY=''
DATABASES=0
start_respgres() {
    local port=$1 redis_port=$2 log=$3 database=respgres_$((++DATABASES))
    local settings=("RESPGRES__SERVER__LISTEN=127.0.0.1:$port" RESPGRES__SERVER__THREADS=1 RESPGRES__ADMIN__LISTEN=
        RESPGRES__UPSTREAM__ADMIN_COMMANDS=true
        "RESPGRES__UPSTREAM__URL=redis://127.0.0.1:$redis_port")
    [[ -z $STRATEGY ]] || settings+=("RESPGRES__DEFAULTS__STRATEGY=$STRATEGY")
    if [[ -n $STORES ]]; then
        "$(postgres_programs)/createdb" -h "$STORES" -U postgres "$database" >"$log" 2>&1 || return 1
        settings+=("RESPGRES__POSTGRES__URL=postgres://postgres@localhost/$database?host=$STORES")
        env "${settings[@]}" "${PROGRAM:?}" schema --config "${CONFIG:?}" --apply >"$log" 2>&1 ||
            return 1
    fi
    env "${settings[@]}" "${PROGRAM:?}" run --config "${CONFIG:?}" >"$log" 2>&1 &
    RUNNING=("$!" "${RUNNING[@]}")
    answers "$port" "${RUNNING[0]}"
}

stop_running() {
    end_processes "${RUNNING[@]}"
    RUNNING=()
}
