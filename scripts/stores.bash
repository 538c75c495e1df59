# A Redis and a Postgres in a throw-away directory, for as long as the script that sources this
# runs. Redis listens on a free port of 127.0.0.1, Postgres on a Unix socket alone.
#
#   start_stores      sets STORES (the directory, also Postgres' host) and REDIS_PORT
#   POSTGRES_OPTIONS  more options for Postgres
#   guard PID SIG     ends this process by SIG when the script ends, however it ends
# shellcheck shell=bash

STORES=''
REDIS_PORT=''
POSTGRES_OPTIONS=()
GUARDED=()

guard() {
    GUARDED=("$1:$2" "${GUARDED[@]}")
}

# Ends what was started, last first, by process id; then removes the directory.
end_stores() {
    local entry pid
    trap '' INT TERM HUP
    for entry in "${GUARDED[@]}"; do
        pid=${entry%%:*}
        kill "-${entry##*:}" "$pid" 2>/dev/null || continue
        for _ in {1..100}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [[ -z $STORES ]] || rm -rf "$STORES"
}

# Runs a command as somebody whom Postgres accepts: it refuses root.
as_postgres() {
    if [[ $(id -u) -eq 0 ]]; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$STORES" "$@"
    else
        exec "$@"
    fi
}

start_stores() {
    local programs attempt pid
    programs=$(postgres_programs)
    trap end_stores EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    STORES=$(mktemp -d /tmp/respgres.XXXXXX)
    mkdir "$STORES/redis"
    [[ $(id -u) -ne 0 ]] || chown postgres: "$STORES"

    # In subshells: as_postgres replaces the shell, so that $! is Postgres itself.
    (cd "$STORES" && as_postgres "$programs/initdb" --auth=trust --username=postgres \
        --encoding=UTF8 --locale=C.UTF-8 --no-instructions -D "$STORES/data") \
        >"$STORES/initdb.log" 2>&1 || { cat "$STORES/initdb.log" >&2; return 1; }
    (cd "$STORES" && as_postgres "$programs/postgres" -D "$STORES/data" -k "$STORES" \
        -c listen_addresses= "${POSTGRES_OPTIONS[@]}") >"$STORES/postgres.log" 2>&1 &
    guard $! QUIT # throw-away data needs no checkpoint
    for attempt in {1..200}; do
        "$programs/pg_isready" -q -h "$STORES" && break
        if [[ $attempt -eq 200 ]] || ! kill -0 "${GUARDED[0]%%:*}" 2>/dev/null; then
            cat "$STORES/postgres.log" >&2
            return 1
        fi
        sleep 0.1
    done
    "$programs/createdb" -h "$STORES" -U postgres respgres

    # A port is free when Redis gets it.
    for attempt in {1..20}; do
        REDIS_PORT=$((20000 + RANDOM % 10000))
        (cd "$STORES/redis" && exec redis-server --bind 127.0.0.1 --port "$REDIS_PORT" --save '' \
            --appendonly no) >"$STORES/redis.log" 2>&1 &
        pid=$!
        while kill -0 "$pid" 2>/dev/null; do
            if grep -q 'eady to accept connections' "$STORES/redis.log"; then
                guard "$pid" TERM
                return 0
            fi
            sleep 0.05
        done
        wait "$pid" || true
    done
    cat "$STORES/redis.log" >&2
    return 1
}
