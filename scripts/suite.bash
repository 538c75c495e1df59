# Redis' own Tcl test suite: its source, and one of its files run against a server. Sourced.
#
# The suite runs in external mode: it talks to a server that is there already. Each file gets a
# server (and a respgres) of its own, so that what one file breaks or leaves behind does not spoil
# the next.
#
#   fetch_suite DIRECTORY    Redis' source package of SUITE_VERSION, unpacked; sets SUITE
#   suite_files              the suite's files, in its own order
#   run_file HOW FILE LOG    one file through HOW (plain or respgres), its output to LOG
#   outcomes WORD LOG        the names of the tests of a log that ended so (ok, err, ignore, skip)
# shellcheck shell=bash

SUITE_VERSION=7.0.15
SUITE=''

# What the suite is told in every run. --durable: go on after an error. --ignore-digest: DEBUG
# DIGEST and DEBUG RELOAD are not for clients. The tags: docs/conformance.md.
SUITE_OPTIONS=(--timeout 120 --durable --ignore-digest --tags
    '-slow -needs:debug -needs:repl -needs:save -needs:config-maxmemory -needs:config-resetstat -needs:pfdebug')

# Debian's source package, by apt, with lists and configuration of its own: the machine's are
# neither used nor changed.
fetch_suite() {
    local directory=$1 apt source unpacked
    SUITE=$directory/redis-$SUITE_VERSION
    if [[ ! -f $SUITE/tests/test_helper.tcl ]]; then
        apt=$directory/apt
        mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/cache/archives/partial"
        for source in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
            [[ -f $source ]] || continue
            sed -n 's/^deb[[:space:]]/deb-src /p' "$source"
        done >"$apt/parts/one-line.list"
        for source in /etc/apt/sources.list.d/*.sources; do
            [[ -f $source ]] || continue
            sed 's/^Types:.*/Types: deb-src/' "$source" >"$apt/parts/${source##*/}"
        done
        local options=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts"
            -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=)
        (cd "$apt" && apt-get "${options[@]}" update &&
            apt-get "${options[@]}" source --download-only redis) >"$directory/fetch.log" 2>&1 || {
            cat "$directory/fetch.log" >&2
            echo "cannot fetch Redis' source package with apt" >&2
            return 1
        }
        local archive=("$apt"/redis_"$SUITE_VERSION".orig.tar.*)
        if [[ ! -f ${archive[0]} ]]; then
            echo "apt has $(cd "$apt" && ls redis_*.orig.tar.*), not Redis $SUITE_VERSION" >&2
            return 1
        fi
        # Debian's patches do not touch the tests that run here.
        unpacked=$directory/unpacked
        rm -rf "$unpacked" "$SUITE"
        mkdir "$unpacked"
        tar -xf "${archive[0]}" -C "$unpacked" --strip-components 1
        mv "$unpacked" "$SUITE"
        rm -rf "$apt" "$directory/fetch.log"
    fi
    # The suite starts programs of its own checkout: these are the system's.
    local program
    for program in redis-server redis-cli redis-benchmark redis-check-aof redis-check-rdb; do
        ln -sf "$(command -v "$program")" "$SUITE/src/$program"
    done
}

suite_files() {
    (cd "$SUITE" && tclsh tests/test_helper.tcl --list-tests)
}

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

# Runs one file. Uses WORK (a directory), PROGRAM and CONFIG (for respgres), FILE_SECONDS, and the
# options after LOG for the suite. False when the file did not come to its end.
run_file() {
    local how=$1 file=$2 log=$3
    shift 3
    local port redis_port directory result=0
    redis_port=$(free_ports)
    port=$redis_port
    directory=$(mktemp -d "$WORK/servers.XXXXXX")
    redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --dir "$directory" \
        --enable-debug-command yes --enable-module-command yes >"$log.redis" 2>&1 &
    RUNNING=("$!")
    if ! answers "$redis_port" "${RUNNING[0]}"; then
        tail -n 3 "$log.redis" >"$log"
        result=1
    elif [[ $how == respgres ]]; then
        port=$((redis_port + 1))
        if ! start_respgres "$port" "$redis_port" "$log.respgres"; then
            tail -n 3 "$log.respgres" >"$log"
            result=1
        fi
    fi
    if [[ $result -eq 0 ]]; then
        (cd "$SUITE" && exec setsid timeout --kill-after 5 "$FILE_SECONDS" tclsh \
            tests/test_helper.tcl --host 127.0.0.1 --port "$port" --baseport $((redis_port + 50)) \
            --portcount 9 "${SUITE_OPTIONS[@]}" "$@" --single "$file") >"$log.raw" 2>&1 </dev/null &
        RUNNING+=("$!")
        wait "$!" || true
        sed 's/\x1b\[[0-9;]*m//g' "$log.raw" >"$log"
        rm -f "$log.raw"
        grep -q '^\[[0-9/]* done\]' "$log" || result=1
        # Clients of the suite outlive it when it is cut off.
        kill -KILL -- "-${RUNNING[-1]}" 2>/dev/null || true
        unset 'RUNNING[-1]'
    fi
    stop_running
    rm -rf "$directory"
    return "$result"
}

# Where there is a Postgres (STORES, of stores.bash), a database of its own goes with it.
start_respgres() {
    local port=$1 redis_port=$2 log=$3 database=respgres_$2
    local settings=("RESPGRES__SERVER__LISTEN=127.0.0.1:$port" RESPGRES__SERVER__THREADS=1
        RESPGRES__UPSTREAM__ADMIN_COMMANDS=true
        "RESPGRES__UPSTREAM__URL=redis://127.0.0.1:$redis_port")
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

# One line a test. What a name varies by from run to run (times, seeds) is not part of it.
outcomes() {
    local word=$1 log=$2
    sed -nE "s/^\[$word\]: (.*)$/\1/p" "$log" |
        sed -E 's/ \([0-9]+ ms\)$//; s, in tests/[^ ]*\.tcl$,,'
}
