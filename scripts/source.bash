# Debian's source packages, by apt, with lists and configuration of its own: the machine's are
# neither used nor changed. Sourced.
#
#   fetch_source PACKAGE VERSION DIRECTORY    what its authors published, unpacked into DIRECTORY
# shellcheck shell=bash

fetch_source() {
    local package=$1 version=$2 directory=$3 apt=$3.apt source
    rm -rf "$apt" "$directory"
    mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/unpacked"
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
        apt-get "${options[@]}" source --download-only "$package") >"$apt/fetch.log" 2>&1 || {
        cat "$apt/fetch.log" >&2
        echo "cannot fetch the source package $package with apt" >&2
        return 1
    }
    local archive=("$apt/${package}_$version".orig.tar.*)
    if [[ ! -f ${archive[0]} ]]; then
        echo "apt has $(cd "$apt" && ls "${package}"_*.orig.tar.*), not $package $version" >&2
        return 1
    fi
    tar -xf "${archive[0]}" -C "$apt/unpacked" --strip-components 1
    mv "$apt/unpacked" "$directory"
    rm -rf "$apt"
}
