# Sourced by ./demo, ./verify and ./testbed: looks at the machine before anything is changed, and installs
# the Debian packages that are missing. Each complaint is one line: what, where, what to do.

refuse() { echo "${0##*/}: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || refuse "namespaces and mounts need root, and this is user $(id -un): run it as root (sudo)"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || refuse "this is $(uname -sm): run it on Linux on x86_64"

memory=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
[ "$memory" -ge 6000 ] || refuse "$memory MiB of memory are free, 6000 are needed: end other programs or take a larger machine"

export HEMICYCLE_CACHE="${HEMICYCLE_CACHE:-${HOME:-/root}/.cache/hemicycle}"
mkdir -p "$HEMICYCLE_CACHE" || refuse "cannot write $HEMICYCLE_CACHE: set HEMICYCLE_CACHE to a directory that can be"
disk=$(df --output=avail -m "$HEMICYCLE_CACHE" | tail -1 | tr -d ' ')
# With everything cold: Go's and Rust's build caches, programs, images. Once warm, little is written.
wanted=15000
ls "$HEMICYCLE_CACHE"/bin-*/complete > /dev/null 2>&1 && wanted=4000
[ "$disk" -ge "$wanted" ] ||
  refuse "$disk MiB of disk are free at $HEMICYCLE_CACHE, $wanted are needed: free some, or set HEMICYCLE_CACHE"

for program in cargo:Rust go:Go node:Node.js; do
  command -v "${program%:*}" > /dev/null || refuse "${program%:*} is not in PATH: install ${program#*:}"
done

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
