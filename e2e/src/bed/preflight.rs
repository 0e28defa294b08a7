//! Whether this machine can carry a bed: looked at before anything is changed. Decides nothing
//! else.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Error, Result, cgroup};
use crate::cache;
use crate::process::run;

/// Programs of the machine and the Debian package of each.
const PROGRAMS: [(&str, &str); 14] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("busybox", "busybox-static"),
    ("socat", "socat"),
    ("buildah", "buildah"),
    ("cc", "gcc libc6-dev"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("nice", "coreutils"),
];

/// Control plane and three nodes hold 0.5 GiB, browsers and media nodes the rest.
const MEMORY_MIB_MIN: u64 = 3 * 1024;

/// Programs 0.8 GB, Go's build cache 4.4 GB, image copies for each node.
const DISK_MIB_MIN: u64 = 8 * 1024;

/// Looks at everything that a bed with its state in `state` needs from the machine.
///
/// # Errors
/// The first thing that is missing, and how to get it.
pub fn preflight(state: &Path) -> Result<()> {
    let user = run(Command::new("id").arg("-u"))?;
    if user.trim() != "0" {
        return Err(machine(
            format!("namespaces and mounts need root, and this is user {}", user.trim()),
            "run it as root (sudo)",
        ));
    }
    programs()?;
    if !is_there("go") {
        let what = "go is not in PATH".to_owned();
        return Err(machine(what, "install Go 1.26 or newer; it builds Kubernetes"));
    }
    let memory = memory_mib();
    if memory < MEMORY_MIB_MIN {
        return Err(machine(
            format!("{memory} MiB of memory are free, {MEMORY_MIB_MIN} MiB are needed"),
            "end other programs or take a larger machine",
        ));
    }
    for directory in [state, &cache::directory()] {
        let free = disk_mib(directory)?;
        if free < DISK_MIB_MIN {
            let place = directory.display();
            return Err(machine(
                format!("{free} MiB of disk are free at {place}, {DISK_MIB_MIN} MiB are needed"),
                "free some, or set HEMICYCLE_BED and HEMICYCLE_CACHE to a larger disk",
            ));
        }
    }
    if !cgroup::mounts().iter().any(|mount| mount.ends_with("memory")) {
        return Err(machine(
            "the memory controller of cgroup v1 is not mounted".to_owned(),
            "boot with systemd.unified_cgroup_hierarchy=0; the bed was proven on cgroup v1 only",
        ));
    }
    Ok(())
}

fn machine(what: String, remedy: &'static str) -> Error {
    Error::Machine { what, remedy }
}

fn programs() -> Result<()> {
    let absent: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !is_there(program)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = absent.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = absent.iter().map(|(_, package)| *package).collect();
    Err(Error::Missing { missing: names.join(", "), packages: packages.join(" ") })
}

fn is_there(program: &str) -> bool {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search).any(|directory| directory.join(program).is_file())
}

fn memory_mib() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Free space at `directory`, or at its nearest parent that exists.
fn disk_mib(directory: &Path) -> Result<u64> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let table = run(Command::new("df").args(["--output=avail", "-m"]).arg(there))?;
    let number = table.lines().last().and_then(|line| line.trim().parse().ok());
    Ok(number.unwrap_or(0))
}
