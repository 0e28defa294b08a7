//! Two network namespaces joined by a pair of virtual interfaces: one for the generator, one for
//! the server.
//!
//! Everything lives in namespaces of one process tree, which dies with the command however that
//! ends, and the kernel takes the rest away. Decides nothing about what is measured. Invariant:
//! the machine's own interfaces, mounts and processes are never touched.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::process::run_line;

/// Address of the server, in the block that is reserved for benchmarks (RFC 2544).
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Address of the generator.
pub(super) const GENERATOR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Name of the server's namespace; it exists below a `/run` of our own only.
const SERVER_NAMESPACE: &str = "server";

/// Runs this program again, with `arguments`, as the first process of namespaces of its own and on
/// one CPU. Returns whether it succeeded.
///
/// # Errors
/// If it cannot be started.
pub(super) fn enter(cpu: usize, arguments: &[OsString]) -> anyhow::Result<bool> {
    let program = std::env::current_exe().context("cannot find this program")?;
    // The kernel kills `unshare` when this process ends, and that the first process inside, with
    // which everything inside ends.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--mount-proc", "--", "taskset", "--cpu-list"])
        .arg(cpu.to_string())
        .arg(program)
        .args(arguments)
        .status()
        .context("cannot run `setpriv` of util-linux")?;
    Ok(status.success())
}

/// Makes the server's namespace and the link to it; called inside.
///
/// # Errors
/// If the kernel refuses, as it does without the rights of root.
pub(super) fn prepare() -> anyhow::Result<()> {
    let inside = std::process::id() == 1;
    ensure!(inside, "only the first process of namespaces of its own may prepare them");
    // `ip` keeps its names below /run; this one goes with our mounts.
    run_line("mount -t tmpfs tmpfs /run")?;
    run_line(&format!("ip netns add {SERVER_NAMESPACE}"))?;
    run_line(&format!("ip link add veth0 type veth peer name veth0 netns {SERVER_NAMESPACE}"))?;
    for (inside, address) in [("", GENERATOR), ("-n server", SERVER)] {
        run_line(&format!("ip {inside} address add {address}/30 dev veth0"))?;
        run_line(&format!("ip {inside} link set lo up"))?;
        run_line(&format!("ip {inside} link set veth0 up"))?;
    }
    Ok(())
}

/// A command that runs `program` in the server's namespace, on one CPU. The process that starts
/// becomes `program`, so that its number is the program's.
pub(super) fn in_server(cpu: usize, program: &std::path::Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", SERVER_NAMESPACE, "taskset", "--cpu-list"]);
    command.arg(cpu.to_string()).arg(program);
    command
}
