# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034
#
# What every script here shares: where things are, how progress and errors look, how a cache entry
# is made. Sourced with `. "$(dirname "$0")/lib.sh"` by scripts that have set -euo pipefail.
#
#   UBLK_BPF_CACHE    where everything that can be made again is kept (default ~/.cache/ublk-bpf)
#   UBLK_BPF_MIRROR   the Debian mirror (default http://deb.debian.org/debian)
#   UBLK_BPF_SECURITY_MIRROR   that of security updates (default: debian-security beside it)

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${UBLK_BPF_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ublk-bpf}
MIRROR=${UBLK_BPF_MIRROR:-http://deb.debian.org/debian}
SECURITY_MIRROR=${UBLK_BPF_SECURITY_MIRROR:-${MIRROR%/debian}/debian-security}
SUITE=trixie
SELF=$(basename "$0")
# Seconds count from the outermost script or make.
export UBLK_BPF_T0=${UBLK_BPF_T0:-$(date +%s)}

mkdir -p "$CACHE/lock" "$CACHE/tmp"
CACHE=$(cd "$CACHE" && pwd -P)
export UBLK_BPF_CACHE=$CACHE
# What was compiled before, in any clone, from the same text and in the same way is taken from the cache (scripts/in-root says where).
# Eight sources are one for the compiler: most of its time goes into headers and templates that all of them have.
BUILD_FAST=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
	-DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=8)

# One line of progress. On stderr: stdout belongs to what a script prints for its caller.
say() { printf '[%4ds] %s: %s\n' "$(($(date +%s) - UBLK_BPF_T0))" "$SELF" "$*" >&2; }

die() { printf '%s: %s\n' "$SELF" "$*" >&2; exit 1; }

usage_error() { printf '%s: %s\n' "$SELF" "$*" >&2; exit 2; }

# Runs a command as root.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		die "needs root to run ${1##*/}: run make as root, or install sudo"
	fi
}

# key_of STRING|FILE...: sixteen hex digits that change with any of the strings or the files' contents.
key_of() {
	local a
	for a in "$@"; do
		if [ -f "$a" ]; then cat -- "$a"; else printf '%s\n' "$a"; fi
		printf '\0'
	done | sha256sum | cut -c1-16
}

# key_of_tree DIR...: the same for all files below directories, by content and by name in the directory, wherever that is.
key_of_tree() {
	local d
	for d in "$@"; do
		(cd "$d" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum)
		echo
	done | sha256sum | cut -c1-16
}

# cached ENTRY FUNCTION [ARG...]: makes the directory $CACHE/ENTRY unless it is there.
# FUNCTION gets an empty directory as its first argument and fills it; only when it has succeeded does
# the directory get its name, so that an entry is whole or absent. Concurrent callers wait for each other.
# What was not asked for in two weeks goes when something new of its kind comes.
cached() {
	local entry=$1 fn=$2 tmp fd old
	shift 2
	if [ -d "$CACHE/$entry" ]; then
		touch -c "$CACHE/$entry" 2>/dev/null || true
		return
	fi
	mkdir -p "$CACHE/${entry%/*}"
	exec {fd}>"$CACHE/lock/${entry//\//_}"
	if ! flock -n "$fd"; then
		say "waits for another run that is making $entry"
		flock "$fd"
	fi
	if [ ! -d "$CACHE/$entry" ]; then
		tmp=$(mktemp -d "$CACHE/tmp/${entry//\//_}.XXXXXX")
		chmod 755 "$tmp"
		# Not as `if ! (...)`: that would switch errexit off inside.
		local status=0
		set +e
		(set -e; "$fn" "$tmp" "$@")
		status=$?
		set -e
		if [ $status != 0 ]; then
			remove_tree "$tmp"
			exit $status
		fi
		mv -T "$tmp" "$CACHE/$entry"
		touch "$CACHE/$entry"
		find "$CACHE/${entry%/*}" -mindepth 1 -maxdepth 1 -type d -mtime +14 | while read -r old; do
			say "removes ${old#"$CACHE/"}, unused for two weeks"
			remove_tree "$old"
		done
	fi
	exec {fd}>&-
}

# tsc_khz: the frequency of this host's TSC in kHz, measured once each time that the host was started.
make_tsc() {
	"$REPO/scripts/in-root" gcc -O2 -o "$1/tsc-khz" "$REPO/scripts/tsc-khz.c"
	"$REPO/scripts/in-root" "$1/tsc-khz" >"$1/khz"
}
tsc_khz() {
	local boot
	boot=tsc/$(key_of "$(cat /proc/sys/kernel/random/boot_id)" "$REPO/scripts/tsc-khz.c")
	cached "$boot" make_tsc
	cat "$CACHE/$boot/khz"
}

# Removes a tree that may hold files of root's.
remove_tree() {
	rm -rf --one-file-system -- "$1" 2>/dev/null || as_root rm -rf --one-file-system -- "$1"
}

# logged FILE CMD...: output goes to the file; its end is shown when the command fails.
logged() {
	local log=$1 status=0
	shift
	"$@" >"$log" 2>&1 || status=$?
	[ $status = 0 ] || { tail -n 40 "$log" >&2; return $status; }
}

keyring() {
	local k
	for k in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
		[ ! -e "$k" ] || { echo "$k"; return; }
	done
	die "/usr/share/keyrings/debian-archive-keyring.gpg is missing: apt-get install debian-archive-keyring"
}

# The sources of everything that is taken from Debian. Backports are there for the kernel's packages;
# apt prefers the suite's own version unless backports is named.
debian_sources() {
	local k
	k=$(keyring)
	echo "deb [signed-by=$k] $MIRROR $SUITE main"
	echo "deb [signed-by=$k] $MIRROR $SUITE-backports main"
}

# Not part of debian_sources: the roots that are built from those need no updates.
security_source() { echo "deb [signed-by=$(keyring)] $SECURITY_MIRROR $SUITE-security main"; }

# The host's proxy for packages, as a line of apt.conf, if it has one.
host_proxy() { apt-config dump Acquire::http::Proxy 2>/dev/null | grep -v '""' || true; }
