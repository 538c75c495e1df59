# Where things are. Sourced.
# shellcheck shell=bash

# The directory with initdb and postgres, newest version first; empty when there is none.
postgres_programs() {
    local found
    found=$(find /usr/lib/postgresql /usr/local/lib/postgresql -path '*/bin/initdb' 2>/dev/null |
        sort -V | tail -n 1) || true
    [[ -n $found ]] || found=$(command -v initdb) || true
    [[ -z $found ]] || dirname "$found"
}
