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

fetch_suite() {
    local directory=$1
    SUITE=$directory/redis-$SUITE_VERSION
    # Debian's patches do not touch the tests that run here.
    [[ -f $SUITE/tests/test_helper.tcl ]] || fetch_source redis "$SUITE_VERSION" "$SUITE" || return 1
    # The suite starts programs of its own checkout: these are the system's.
    local program
    for program in redis-server redis-cli redis-benchmark redis-check-aof redis-check-rdb; do
        ln -sf "$(command -v "$program")" "$SUITE/src/$program"
    done
}

suite_files() {
    (cd "$SUITE" && tclsh tests/test_helper.tcl --list-tests)
}

# Runs one file. Uses WORK (a directory), PROGRAM and CONFIG (for respgres), FILE_SECONDS, and the
# options after LOG for the suite. False when the file did not come to its end.
run_file() {
    local how=$1 file=$2 log=$3
    shift 3
    local port redis_port directory result=0
    redis_port=$(free_ports)
    port=$redis_port
    directory=$(mktemp -d "$WORK/servers.XXXXXX")
    if ! start_redis "$redis_port" "$directory" "$log.redis"; then
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

# One line a test. What a name varies by from run to run (times, seeds) is not part of it.
outcomes() {
    local word=$1 log=$2
    sed -nE "s/^\[$word\]: (.*)$/\1/p" "$log" |
        sed -E 's/ \([0-9]+ ms\)$//; s, in tests/[^ ]*\.tcl$,,'
}
