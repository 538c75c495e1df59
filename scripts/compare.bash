# One file of Redis' suite on plain Redis and through respgres, and what only the former passes. Sourced,
# after suite.bash and servers.bash.
#
#   run_plain FILE LOG        on plain Redis: outcomes in LOG.plain.{ok,err,ignore,skip}
#   run_respgres FILE LOG     through respgres, again while tests fail that nobody knows of, TRIES times at
#                             most. LOG.missing: what failed every time; LOG.unexpected: of these, what
#                             is not in docs/differences.md under a heading of which HEADING, an expression, is true. TRIED: how often it was run.
#                             Both are false when the file did not come to its end
#   count FILE                its lines
#   put_table NAME            puts what it reads into PAGE, between the marks of that name
#
# A test has failed when plain Redis passes it and respgres does not. Uses TRIES, HEADING, DIFFERENCES
# and suite_options, the options for the suite.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # used, and set, where this is sourced

DIFFERENCES=docs/differences.md
PAGE=docs/conformance.md
TRIED=0

# The tests of a file that the tables under HEADING name.
known_failures() {
    awk -F ' *[|] *' -v heading="$HEADING" -v file="\`$1\`" '
        /^## / { within = $0 ~ heading }
        within && $2 == file { print $3 }' "$DIFFERENCES" | sort
}

# What the first file has and the second has not: each name as often as it is missing.
missing() {
    comm -23 <(sort "$1") <(sort "$2")
}

count() {
    grep -c . "$1" || true
}

sort_outcomes() {
    local log=$1 word
    for word in ok err ignore skip; do
        outcomes "$word" "$log" >"$log.$word"
    done
}

run_plain() {
    local file=$1 log=$2.plain result=0
    run_file plain "$file" "$log" "${suite_options[@]}" || result=1
    sort_outcomes "$log"
    return "$result"
}

run_respgres() {
    local file=$1 log=$2 result
    known_failures "$file" >"$log.known"
    for ((TRIED = 1; ; TRIED++)); do
        result=0
        run_file respgres "$file" "$log.respgres" "${suite_options[@]}" || result=1
        sort_outcomes "$log.respgres"
        missing "$log.plain.ok" "$log.respgres.ok" >"$log.missing.$TRIED"
        # Failed every time so far.
        if [[ $TRIED -eq 1 ]]; then
            cp "$log.missing.$TRIED" "$log.missing"
        else
            comm -12 "$log.missing" "$log.missing.$TRIED" >"$log.both"
            mv "$log.both" "$log.missing"
        fi
        grep -vxF -f "$log.known" "$log.missing" >"$log.unexpected" || true
        [[ -s $log.unexpected ]] || return "$result"
        cp "$log.respgres" "$log.respgres.try$TRIED"
        [[ $TRIED -lt $TRIES ]] || return "$result"
    done
}

put_table() {
    {
        sed "/^<!-- $1 -->\$/q" "$PAGE"
        echo
        cat
        echo
        sed -n "/^<!-- end of $1 -->\$/,\$p" "$PAGE"
    } >"$WORK/page"
    cp "$WORK/page" "$PAGE"
}
