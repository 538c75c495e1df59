# The test suites of client libraries: where they come from, and how one is run. Sourced.
#
#   CLIENT_SUITES             their names
#   fetch_client SUITE HOME   fetches and builds it in HOME, from the library's package
#   version_of SUITE          which version that is
#   run_client SUITE HOW OUT  runs it through HOW (plain or respgres); into OUT one line a test:
#                             "passed NAME" or "failed NAME". False when it was cut off
#
# A suite that needs a server that is there gets a new one for each run (servers.bash). One that
# starts servers of its own finds scripts/stand-in on its PATH. Uses WORK, PROGRAM, CONFIG,
# CLIENT_SECONDS, the time that one run may take, and EXCEPTED, a file of tests to leave out.
# shellcheck shell=bash
# shellcheck disable=SC2034 # used where this is sourced

CLIENT_SUITES=(redis-py-2 redis-py-3 redis-rs-2 redis-rs-3 hiredis)
REDIS_PY=8.1.0
REDIS_RS=1.8.1
REDIS_RS_TEST=1.0.4
HIREDIS=0.14.1

version_of() {
    case $1 in
        redis-py-*) echo "redis-py $REDIS_PY, RESP${1##*-}" ;;
        redis-rs-*) echo "redis-rs $REDIS_RS, RESP${1##*-}" ;;
        hiredis) echo "hiredis $HIREDIS" ;;
    esac
}

fetch_client() {
    local home=$2
    case $1 in
        redis-py-*) fetch_redis_py "$home" ;;
        redis-rs-*) fetch_redis_rs "$home" ;;
        hiredis) fetch_hiredis "$home" ;;
    esac
}

run_client() {
    local suite=$1 how=$2 out=$3
    case $suite in
        redis-py-*) run_redis_py "$how" "$out" "${suite##*-}" ;;
        redis-rs-*) run_redis_rs "$how" "$out" "${suite##*-}" ;;
        hiredis) run_hiredis "$how" "$out" ;;
    esac
}

# Runs a command in DIRECTORY for at most CLIENT_SECONDS, in a process group of its own.
bounded() {
    local directory=$1 log=$2 result=0
    shift 2
    (cd "$directory" && exec setsid timeout --signal INT --kill-after 10 "$CLIENT_SECONDS" "$@") \
        >"$log" 2>&1 </dev/null &
    RUNNING+=("$!")
    wait "$!" || result=$?
    kill -KILL -- "-${RUNNING[-1]}" 2>/dev/null || true
    unset 'RUNNING[-1]'
    # 124 and more: out of time, or ended by a signal. Less: tests failed.
    [[ $result -lt 124 ]]
}

# A Redis, and for respgres one of those before it; sets CLIENT_PORT.
CLIENT_PORT=''
start_for_client() {
    local how=$1 log=$2 directory redis_port
    redis_port=$(free_ports)
    CLIENT_PORT=$redis_port
    directory=$(mktemp -d "$WORK/servers.XXXXXX")
    start_redis "$redis_port" "$directory" "$log.redis" || return 1
    [[ $how == respgres ]] || return 0
    CLIENT_PORT=$((redis_port + 1))
    start_respgres "$CLIENT_PORT" "$redis_port" "$log.respgres"
}

# === redis-py ===

# Left out: docs/conformance.md says why.
REDIS_PY_FILES=(cluster cluster_transaction sentinel sentinel_managed_connection ssl credentials bloom
    json search search_aggregation search_querystring search_result timeseries vsets himport
    himport_integration multidb observability)
REDIS_PY_MARKS='not onlycluster and not redismod and not ssl and not replica and not cp_integration
    and not multidb_integration'

fetch_redis_py() {
    local home=$1
    REDIS_PY_HOME=$home/redis-py-$REDIS_PY
    [[ -f $REDIS_PY_HOME/fetched ]] && return
    rm -rf "$REDIS_PY_HOME"
    mkdir "$REDIS_PY_HOME"
    {
        python3 -m venv "$REDIS_PY_HOME/venv" &&
            "$REDIS_PY_HOME/venv/bin/pip" download --quiet --no-binary :all: --no-deps \
                --dest "$REDIS_PY_HOME" "redis==$REDIS_PY" &&
            tar -xf "$REDIS_PY_HOME/redis-$REDIS_PY.tar.gz" -C "$REDIS_PY_HOME" \
                --strip-components 1 &&
            "$REDIS_PY_HOME/venv/bin/pip" install --quiet "$REDIS_PY_HOME" pytest 'pytest-asyncio' \
                pytest-timeout pytest-forked 'uvloop' numpy packaging cryptography requests \
                xxhash pybreaker aiohttp ujson PyJWT
    } >"$REDIS_PY_HOME/fetch.log" 2>&1 || {
        cat "$REDIS_PY_HOME/fetch.log" >&2
        return 1
    }
    touch "$REDIS_PY_HOME/fetched"
}

run_redis_py() {
    local how=$1 out=$2 protocol=$3 result=0 name
    local ignored=(--ignore tests/test_scenario --ignore tests/test_multidb
        --ignore tests/test_asyncio/test_multidb --ignore tests/test_http
        --ignore tests/maint_notifications --ignore tests/test_observability
        --ignore tests/test_asyncio/test_scenario --ignore tests/test_asyncio/test_observability)
    for name in "${REDIS_PY_FILES[@]}"; do
        ignored+=(--ignore "tests/test_$name.py" --ignore "tests/test_asyncio/test_$name.py")
    done
    start_for_client "$how" "$out" || return 1
    # pytest's own --deselect takes a prefix, and with test_a leaves out test_ab.
    cat >"$REDIS_PY_HOME/excepted.py" <<'PYTHON'
import os

def pytest_collection_modifyitems(config, items):
    excepted = set(open(os.environ["EXCEPTED"]).read().splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in excepted])
    items[:] = [item for item in items if item.nodeid not in excepted]
PYTHON
    bounded "$REDIS_PY_HOME" "$out.log" env "EXCEPTED=$EXCEPTED" PYTHONPATH=. \
        venv/bin/python -m pytest -q -p no:cacheprovider -p excepted --timeout 30 \
        --redis-url "redis://127.0.0.1:$CLIENT_PORT/0" --protocol "$protocol" \
        -m "${REDIS_PY_MARKS//$'\n'/ }" "${ignored[@]}" --junitxml "$out.xml" tests || result=1
    stop_running
    "$REDIS_PY_HOME/venv/bin/python" - "$out.xml" >"$out" <<'PYTHON' || result=1
import re, sys
from xml.etree import ElementTree

for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    inside = {child.tag for child in case}
    if "skipped" in inside:
        continue
    word = "failed" if inside & {"failure", "error"} else "passed"
    # What differs from run to run is not part of the name.
    name = re.sub(r"0x[0-9a-f]+|:\d{4,5}\b", "…", case.get("name"))
    # As pytest names it: tests.test_lock.TestLock is tests/test_lock.py::TestLock.
    modules = re.match(r"([a-z_0-9.]+)(?:\.([A-Z].*))?$", case.get("classname"))
    place = modules[1].replace(".", "/") + ".py" + ("::" + modules[2] if modules[2] else "")
    print(word, place + "::" + " ".join(name.split()))
PYTHON
    return "$result"
}

# === redis-rs ===

REDIS_RS_FEATURES=tokio-comp,connection-manager,cache-aio,r2d2,bb8,uuid
REDIS_RS_TESTS=(acl async auth basic bignum cache geospatial script streams support types)

fetch_redis_rs() {
    local home=$1 source
    REDIS_RS_HOME=$home/redis-rs-$REDIS_RS
    [[ -f $REDIS_RS_HOME/fetched ]] && return
    rm -rf "$REDIS_RS_HOME"
    mkdir -p "$REDIS_RS_HOME/fetch/src"
    # cargo has no command to fetch a crate; vendoring a package that needs it comes to the same.
    touch "$REDIS_RS_HOME/fetch/src/lib.rs"
    printf '[package]\nname = "fetch"\nedition = "2024"\n[workspace]\n[dependencies]\nredis = "=%s"\n' \
        "$REDIS_RS" >"$REDIS_RS_HOME/fetch/Cargo.toml"
    (cd "$REDIS_RS_HOME/fetch" && cargo vendor --quiet --versioned-dirs vendor) \
        >"$REDIS_RS_HOME/fetch.log" 2>&1 || {
        cat "$REDIS_RS_HOME/fetch.log" >&2
        return 1
    }
    source=$REDIS_RS_HOME/fetch/vendor/redis-$REDIS_RS
    mv "$source" "$REDIS_RS_HOME/redis"
    rm -rf "$REDIS_RS_HOME/fetch"
    mkdir -p "$REDIS_RS_HOME/test-macros"
    cp tests/fixtures/redis-rs/async_test.rs "$REDIS_RS_HOME/test-macros/lib.rs"
    printf '[package]\nname = "test-macros"\nedition = "2024"\n[lib]\nproc-macro = true\npath = "lib.rs"\n' \
        >"$REDIS_RS_HOME/test-macros/Cargo.toml"
    # In the library's repository the test harness and its macros are neighbours; packaging drops
    # them. The harness is published.
    cat >>"$REDIS_RS_HOME/redis/Cargo.toml" <<TOML

[workspace]

[dev-dependencies.redis-test]
version = "=$REDIS_RS_TEST"

[dev-dependencies.test-macros]
path = "../test-macros"

[patch.crates-io]
redis = { path = "." }
TOML
    touch "$REDIS_RS_HOME/fetched"
}

run_redis_rs() {
    local how=$1 out=$2 protocol=$3 result=0 name
    local options=(--features "$REDIS_RS_FEATURES")
    for name in "${REDIS_RS_TESTS[@]}"; do
        options+=(--test "test_$name")
    done
    local settings=("CARGO_TARGET_DIR=$REDIS_RS_HOME/target" CARGO_PROFILE_DEV_DEBUG=0
        "PROTOCOL=RESP$protocol")
    (cd "$REDIS_RS_HOME/redis" && env "${settings[@]}" cargo test --no-run --quiet "${options[@]}") \
        >"$out.log" 2>&1 || { tail -n 20 "$out.log" >&2 && return 1; }
    mkdir -p "$WORK/tmp"
    if [[ $how == respgres ]]; then
        mkdir -p "$WORK/bin"
        ln -sf "$PWD/scripts/stand-in" "$WORK/bin/redis-server"
        settings+=("PATH=$WORK/bin:$PATH" "STAND_IN_SERVER=$(command -v redis-server)"
            "STAND_IN_RESPGRES=$PROGRAM" "STAND_IN_CONFIG=$CONFIG")
    fi
    # One at a time: the panic of one test makes others fail that run beside it, or after it.
    options+=(-- --test-threads 1 --exact)
    while read -r name; do
        options+=(--skip "${name#*::}")
    done <"$EXCEPTED"
    bounded "$REDIS_RS_HOME/redis" "$out.log" env "TMPDIR=$WORK/tmp" "${settings[@]}" cargo test --no-fail-fast \
        "${options[@]}" || result=1
    rm -rf "$WORK/tmp"
    # Which binary a test is in stands above its list.
    awk '/^ *Running / { split($2, part, "/"); file = part[length(part)] }
        /^test .* \.\.\. (ok|FAILED)$/ {
            print ($NF == "ok" ? "passed " : "failed ") file "::" $2 }' "$out.log" >"$out"
    return "$result"
}

# === hiredis ===

fetch_hiredis() {
    HIREDIS_HOME=$1/hiredis-$HIREDIS
    [[ -f $HIREDIS_HOME/fetched ]] && return
    rm -rf "$HIREDIS_HOME"
    fetch_source hiredis "$HIREDIS" "$HIREDIS_HOME" &&
        make --quiet -C "$HIREDIS_HOME" hiredis-test >"$HIREDIS_HOME/fetch.log" 2>&1 || return 1
    touch "$HIREDIS_HOME/fetched"
}

run_hiredis() {
    local how=$1 out=$2 result=0
    start_for_client "$how" "$out" || return 1
    # Its Unix socket is the Redis itself either way.
    bounded "$WORK" "$out.log" "$HIREDIS_HOME/hiredis-test" -h 127.0.0.1 -p "$CLIENT_PORT" \
        -s "$WORK/none.sock" --skip-throughput || result=1
    stop_running
    sed -nE 's/\x1b\[[0-9;]*m//g; s/^#[0-9]+ (.*): *PASSED$/passed \1/p; s/^#[0-9]+ (.*): *FAILED$/failed \1/p' \
        "$out.log" >"$out"
    return "$result"
}
