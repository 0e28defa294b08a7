# Sourced by ./demo, ./verify and ./testbed: looks at the machine before anything is changed, installs
# the Debian packages that are missing, and runs a program so that nothing outlives it. Each complaint
# is one line: what, where, what to do. The caller sets `bed`, and `port` if it will listen on one.

refuse() { echo "${0##*/}: $*" >&2; exit 1; }

# there PATH: the part of it that exists.
there() (path=$1; until [ -e "$path" ]; do path=$(dirname "$path"); done; echo "$path")

# room PATH MIB VARIABLE: whether so much can be written there.
room() {
  place=$(there "$1")
  { [ -d "$place" ] && [ -w "$place" ]; } ||
    refuse "cannot write $1: $place is no directory that can be written; set $3 to another"
  free=$(df --output=avail -m "$place" | tail -1 | tr -d ' ')
  [ "$free" -ge "$2" ] || refuse "$free MiB of disk are free at $1, $2 are needed: free some, or set $3 to a larger disk"
}

# listens PORT: whether somebody on this machine does.
listens() {
  awk -v port="$(printf ':%04X$' "$1")" '$4 == "0A" && $2 ~ port {found = 1} END {exit !found}' /proc/net/tcp*
}

[ "$(id -u)" = 0 ] || refuse "namespaces and mounts need root, and this is user $(id -un): run it as root (sudo)"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || refuse "this is $(uname -sm): run it on Linux on x86_64"
for program in cargo:Rust go:Go node:Node.js npm:Node.js; do
  command -v "${program%:*}" > /dev/null || refuse "${program%:*} is not in PATH: install ${program#*:}"
done
memory=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
[ "$memory" -ge 6000 ] || refuse "$memory MiB of memory are free, 6000 are needed: end other programs or take a larger machine"
grep -q '^[^ ]* /sys/fs/cgroup/memory cgroup ' /proc/mounts ||
  refuse "no cgroup v1 at /sys/fs/cgroup/memory: boot with systemd.unified_cgroup_hierarchy=0"

export HEMICYCLE_BED="$bed"
export HEMICYCLE_CACHE="${HEMICYCLE_CACHE:-${HOME:-/root}/.cache/hemicycle}"
# With everything cold: Go's and Rust's build caches, programs, images. Once warm, little is written.
wanted=20000
ls "$HEMICYCLE_CACHE"/bin-*/complete > /dev/null 2>&1 && wanted=4000
room "$HEMICYCLE_CACHE" "$wanted" HEMICYCLE_CACHE
room "$bed" 4000 HEMICYCLE_BED
[ -z "${port:-}" ] || ! listens "$port" ||
  refuse "port $port on this machine is taken: end what listens there, or give --port N"
mkdir -p "$HEMICYCLE_CACHE/locks"

log=$HEMICYCLE_CACHE/cargo-fetch.log
cargo fetch --locked --target x86_64-unknown-linux-gnu --manifest-path "$root/Cargo.toml" > "$log" 2>&1 ||
  refuse "cargo cannot fetch the crates of $root/Cargo.lock (see $log): look at the network and cargo's registry settings"

# Kubelet and containerd of one Kubernetes node take about fifteen, three beds run at once, and Debian grants
# 128 to all of a user's processes: beyond it a kubelet starts, and is never ready.
watchers=/proc/sys/fs/inotify/max_user_instances
if [ "$(cat "$watchers")" -lt 512 ]; then
  echo "raising fs.inotify.max_user_instances from $(cat "$watchers") to 512 until this machine restarts"
  echo 512 > "$watchers" || refuse "$watchers cannot be written: set it to 512 from outside of this container"
fi

missing=
for package in containerd runc containernetworking-plugins iproute2 iptables nftables conntrack busybox-static socat \
    gcc g++ libc6-dev buildah util-linux procps curl python3-venv chromium firefox-esr; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  echo "installing$missing"
  # Debian starts services at installation; nothing of ours needs the machine's own containerd.
  export DEBIAN_FRONTEND=noninteractive
  log=$HEMICYCLE_CACHE/apt.log
  # shellcheck disable=SC2086 # the list is meant to be split
  { apt-get update && apt-get install -y --no-install-recommends $missing; } > "$log" 2>&1 ||
    refuse "apt-get cannot install$missing (see $log): look at the network and the sources of apt"
fi

# Outside the checkout, so that a fresh clone finds what an earlier one compiled.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HEMICYCLE_CACHE/target}"

compile() {
  cargo build -q --manifest-path "$root/Cargo.toml" "$@" || refuse "the crates do not compile: see above"
}

# with_bed NAME [ARGUMENT...]: runs that program of the crate e2e, which may use the bed. It and all that it
# starts are in a cgroup of the bed's name, so that `testbed down` ends them with the bed, however this ends.
with_bed() {
  lock=$HEMICYCLE_CACHE/locks/${bed##*/}
  testbed=$CARGO_TARGET_DIR/debug/testbed
  # Held by this shell alone: a program that outlives it must not keep the next run away.
  exec 9> "$lock"
  # As long as the guard of a run that was killed may take to clear away.
  flock -w 10 9 || refuse "another run uses the test bed in $bed: wait for its end, or set HEMICYCLE_BED"
  program=$CARGO_TARGET_DIR/debug/$1
  shift
  # What a run that was killed together with its guard left.
  "$testbed" down
  # The guard, for this shell cannot act when it is killed outright. In a session of its own, so that whoever
  # kills the group of this one leaves it; it lets the next run clear away, if that came first.
  setsid sh -c 'tail --pid="$1" -f /dev/null; flock -n "$2" "$3" down' guard "$$" "$lock" "$testbed" 9>&- &
  guard=$!
  trap '"$testbed" down; { kill -- "-$guard" && wait "$guard"; } 2> /dev/null || :' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  # In the background, because a shell hears no signal while it waits for one in the foreground; but there
  # it would make everything ignore Ctrl-C.
  "$testbed" _run env --default-signal=INT,QUIT setpriv --pdeathsig KILL "$program" "$@" 9>&- &
  wait $!
}
