//! The namespaces of the bed and of each Kubernetes node, and what their first processes prepare.
//!
//! Invariant: the machine's own mounts, sysctls and interfaces are never written to; everything
//! is done in a namespace of ours and goes with it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Bed, Error, Layout, Result, cgroup};
use crate::process::{Wait, run, run_line};

/// What kubelet insists on writing although it is the machine's; each node sees files instead
/// that hold what it wants already.
const SYSCTLS: [(&str, &str); 4] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
];

/// Directories that each node has for itself: below its state directory, and where it sees them.
const DIRECTORIES: [(&str, &str); 6] = [
    ("etc-cni", "/etc/cni"),
    ("kubelet", "/var/lib/kubelet"),
    ("containerd", "/var/lib/containerd"),
    ("cni", "/var/lib/cni"),
    ("pods", "/var/log/pods"),
    ("containers", "/var/log/containers"),
];

impl Bed {
    /// Starts the process that holds everything; with its end all of the bed ends.
    pub(super) fn start_sandbox(&self) -> Result<()> {
        let words =
            "unshare --mount --pid --net --ipc --uts --fork --kill-child=KILL --mount-proc --";
        let mut line: Vec<OsString> = words.split(' ').map(Into::into).collect();
        line.extend([self.layout.program().into(), "_init".into()]);
        self.spawn("outer", "outer", &line)?;
        Wait::new("the bed's namespaces", 20)
            .log(self.layout.log("outer"))
            .until(|| self.layout.ready_file().exists())
    }

    /// Starts `line` in the background in cgroup `group`; its output goes to a log, its number to
    /// a file.
    pub(super) fn spawn(&self, group: &str, name: &str, line: &[OsString]) -> Result<u32> {
        let log = self.layout.log(name);
        let file = fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|source| Error::file("open", &log, source))?;
        let twin = file.try_clone().map_err(|source| Error::file("open", &log, source))?;
        let program = self.layout.program();
        // `setsid`: neither Ctrl-C nor `timeout` around the caller may reach it.
        let child = Command::new(&program)
            .arg("_in")
            .arg(group)
            .arg("setsid")
            .args(line)
            .env(super::layout::STATE_VARIABLE, self.layout.state())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .spawn();
        let child = child
            .map_err(|source| Error::Start { program: program.display().to_string(), source })?;
        self.layout.write(&self.layout.pid(name), &child.id().to_string())?;
        Ok(child.id())
    }

    /// Becomes the first process of the bed's namespaces.
    ///
    /// # Errors
    /// If the namespaces cannot be prepared; on success it never returns.
    pub fn become_init(&self) -> Result<()> {
        run_line("hostname testbed")?;
        own_sys(&self.layout)?;
        run_line("ip link set lo up")?;
        // A fixed address: a bridge without one takes a port's, and losing that port would cut
        // every node off for 13 s.
        run_line("ip link add br0 address 02:00:00:00:00:01 type bridge forward_delay 0")?;
        run_line("ip address add 198.18.0.1/24 dev br0")?;
        run_line("ip link set br0 up")?;
        // It leads nowhere, for nobody on the bridge answers; but Firefox asks the routing table
        // which of its addresses is the one to offer, and offers none without an answer.
        run_line("ip route add default dev br0 src 198.18.0.1")?;
        forward_packets()?;
        self.layout.write(&self.layout.ready_file(), "")?;
        self.become_pause()
    }

    /// Becomes the first process of node `n`'s namespaces.
    ///
    /// # Errors
    /// If the namespaces cannot be prepared; on success it never returns.
    pub fn become_node(&self, n: u8) -> Result<()> {
        run_line(&format!("hostname n{n}"))?;
        own_sys(&self.layout)?;
        // After own_sys: in a shared tree its last umount would take the original too.
        run_line("mount --make-rshared /")?;
        run_line("mount -t tmpfs tmpfs /run")?;
        for (name, value) in SYSCTLS {
            let fake = format!("/run/fake-{}", name.replace('/', "-"));
            self.layout.write(Path::new(&fake), value)?;
            run_line(&format!("mount --bind {fake} /proc/sys/{name}"))?;
        }
        for (own, seen) in DIRECTORIES {
            let own = self.layout.node(n).join(own);
            for directory in [own.as_path(), Path::new(seen)] {
                fs::create_dir_all(directory)
                    .map_err(|source| Error::file("create", directory, source))?;
            }
            run(Command::new("mount").arg("--bind").arg(own).arg(seen))?;
        }
        run_line("ip link set lo up")?;
        forward_packets()?;
        self.layout.write(&self.layout.node(n).join("ready"), "")?;
        self.become_pause()
    }

    /// `pause` reaps what loses its parent and waits to be killed.
    fn become_pause(&self) -> Result<()> {
        become_program(&mut Command::new(self.tools.path("pause")))
    }
}

/// Moves the calling process into a cgroup of the bed and becomes `line`.
///
/// # Errors
/// If the cgroup or the program cannot be had; on success it never returns.
pub(super) fn join_and_become(group: &Path, line: &[OsString]) -> Result<()> {
    cgroup::join(group)?;
    become_line(line)
}

/// As [`join_and_become`], in a cgroup that gets the processor only while nobody else wants it.
/// Niceness would not do: it orders the processes of one cgroup, and each bed is another.
///
/// # Errors
/// Likewise.
pub(super) fn become_aside(group: &Path, line: &[OsString]) -> Result<()> {
    cgroup::join(group)?;
    cgroup::yield_processor(group)?;
    become_line(line)
}

fn become_line(line: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = line.split_first() else {
        return Ok(());
    };
    become_program(Command::new(program).args(arguments))
}

fn become_program(command: &mut Command) -> Result<()> {
    let source = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    Err(Error::Start { program, source })
}

/// A `/sys` of this network namespace, with the machine's cgroups where they were.
fn own_sys(layout: &Layout) -> Result<()> {
    let aside = layout.state().join("aside");
    fs::create_dir_all(&aside).map_err(|source| Error::file("create", &aside, source))?;
    let aside = aside.display();
    run_line(&format!("mount --rbind /sys/fs/cgroup {aside}"))?;
    run_line("umount -R -l /sys")?;
    run_line("mount -t sysfs sysfs /sys")?;
    run_line(&format!("mount --rbind {aside} /sys/fs/cgroup"))?;
    // Or the unmounting would propagate to /sys/fs/cgroup.
    run_line(&format!("mount --make-rprivate {aside}"))?;
    run_line(&format!("umount -R -l {aside}")).map(|_| ())
}

fn forward_packets() -> Result<()> {
    let switch = Path::new("/proc/sys/net/ipv4/ip_forward");
    fs::write(switch, "1").map_err(|source| Error::file("write", switch, source))
}
