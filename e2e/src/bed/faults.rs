//! What may go wrong in a real cluster, done on purpose. All of it works inside the bed.

use std::collections::BTreeSet;
use std::fs;

use super::{Bed, Result, cgroup};
use crate::process::{self, Wait, run_line};

impl Bed {
    /// The power of node `n` goes: every process on it dies at once, and its cgroups as in a
    /// reboot.
    ///
    /// # Errors
    /// If node `n` does not run.
    pub fn lose_node(&self, n: u8) -> Result<()> {
        let name = format!("n{n}");
        if !self.runs(&name) {
            return Err(self.unknown_node(n));
        }
        // A machine without power says no farewell: nothing that the dying kernel closes gets out.
        self.cut_node(n)?;
        self.end(&name)?;
        for part in ["containerd", "kubelet", "kube-proxy"] {
            let _ = fs::remove_file(self.layout.pid(&format!("{name}.{part}")));
        }
        // The kernel removes both ends with the namespace; this one only makes it certain.
        let _ = run_line(&format!("ip link delete v{n}"));
        // kubelet would take 3 s at its start for each stale cgroup of a pod.
        cgroup::remove(&self.layout.cgroup(&name))
    }

    /// Only kubelet and containerd of node `n` die; its pods go on.
    ///
    /// # Errors
    /// If one resists.
    pub fn crash_node(&self, n: u8) -> Result<()> {
        self.end(&format!("n{n}.kubelet"))?;
        self.end(&format!("n{n}.containerd"))
    }

    /// Takes node `n` off the network.
    ///
    /// # Errors
    /// If there is no such cable.
    pub fn cut_node(&self, n: u8) -> Result<()> {
        run_line(&format!("ip link set v{n} down")).map(|_| ())
    }

    /// Puts node `n` back on the network.
    ///
    /// # Errors
    /// If there is no such cable.
    pub fn mend_node(&self, n: u8) -> Result<()> {
        run_line(&format!("ip link set v{n} up")).map(|_| ())
    }

    /// Kills what was spawned as `name`, and it alone.
    pub(super) fn end(&self, name: &str) -> Result<()> {
        let file = self.layout.pid(name);
        let Some(pid) = process::read_pid(&file) else {
            return Ok(());
        };
        let mut doomed = BTreeSet::from([pid]);
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if program.trim() == "nsenter" {
            // nsenter only waits for the program it started.
            doomed.extend(process::child_of(pid));
        }
        process::kill_all(&doomed);
        Wait::new(&format!("the end of {name}"), 10)
            .until(|| !doomed.iter().any(|pid| process::is_alive(*pid)))?;
        let _ = fs::remove_file(file);
        Ok(())
    }
}
