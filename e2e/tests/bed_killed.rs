//! That whatever kills the start of a bed, the next one clears away what was left; and that
//! whatever kills a script that runs a program on a bed, nothing is left.
//!
//! Runs on the machine itself, on beds of its own names; the programs of the cluster are built.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A bed at `/var/tmp/NAME`, and what the machine was like before it.
struct Trial {
    state: PathBuf,
    /// Of whoever starts it: nothing of a bed belongs there.
    home: PathBuf,
    interfaces: BTreeSet<String>,
}

impl Trial {
    fn new(name: &str) -> Self {
        let state = Path::new("/var/tmp").join(name);
        let home = e2e::cache::scratch(name).expect("a home directory");
        let trial = Self { state, home, interfaces: interfaces() };
        trial.testbed(&["down"]);
        trial
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        // Whoever runs this test may ignore signals, and the ignoring is inherited.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,TERM").arg(program.as_ref());
        command.env("HEMICYCLE_BED", &self.state).stdin(Stdio::null()).process_group(0);
        command
    }

    /// The command `testbed` of somebody whose home is empty.
    fn testbed_program(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_testbed"));
        command.env("HOME", &self.home).env("HEMICYCLE_CACHE", e2e::cache::directory());
        command
    }

    fn testbed(&self, line: &[&str]) {
        let output = self.testbed_program().args(line).output();
        let output = output.expect("testbed starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "testbed {}: {said}", line.join(" "));
    }

    /// Everything on the machine that still bears the bed's name, or came with it.
    fn traces(&self) -> Vec<String> {
        let state = self.state.display().to_string();
        let mut found = Vec::new();
        for process in entries("/proc").iter().filter(|path| path.join("cmdline").exists()) {
            for file in ["cmdline", "environ", "mountinfo"] {
                let said = fs::read(process.join(file)).unwrap_or_default();
                if String::from_utf8_lossy(&said).contains(&state) {
                    found.push(format!("{} names it in {file}", process.display()));
                }
            }
        }
        let name = self.state.file_name().expect("it has a name").to_string_lossy().into_owned();
        for controller in entries("/sys/fs/cgroup") {
            let groups = entries(&controller).into_iter();
            let left = groups.filter(|path| path.file_stem().is_some_and(|stem| *stem == *name));
            found.extend(left.map(|path| format!("cgroup {}", path.display())));
        }
        let came = interfaces().difference(&self.interfaces).cloned().collect::<Vec<_>>();
        found.extend(came.into_iter().map(|interface| format!("interface {interface}")));
        let in_home = entries(&self.home).into_iter();
        found.extend(in_home.map(|path| format!("in the home directory {}", path.display())));
        found.extend(self.state.exists().then(|| format!("directory {state}")));
        found
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.testbed_program().arg("down").status();
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn entries(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn interfaces() -> BTreeSet<String> {
    let names = entries("/sys/class/net").into_iter();
    names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}

fn until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends `signal` to process `pid`, or to a group if that is negative.
fn signal(signal: &str, pid: i64) {
    let sent = Command::new("/bin/kill").args(["-s", signal, "--", &pid.to_string()]).status();
    assert!(sent.expect("kill is installed").success(), "nobody took {signal}");
}

#[test]
fn a_bed_killed_at_any_point_comes_up_next_time_and_leaves_nothing() {
    let trial = Trial::new("hemicycle-killed");
    for (reached, how) in [
        ("ready", "KILL"),
        ("pid/kube-apiserver", "INT"),
        ("n1/ready", "KILL"),
        ("pid/n1.kubelet", "TERM"),
    ] {
        let mut up = trial.testbed_program();
        let mut up = up.args(["up", "1"]).stdout(Stdio::null()).spawn().expect("testbed starts");
        // Of this start, not of the one before.
        until("the start clears away the last one", 30, || !trial.state.join("pid/outer").exists());
        until(reached, 60, || trial.state.join(reached).exists());
        signal(how, -i64::from(up.id()));
        assert!(!up.wait().expect("it ends").success(), "{how} did not end the start");
        println!("killed by {how} at {reached}");
    }
    trial.testbed(&["up", "1"]);
    trial.testbed(&["run", "kubectl", "get", "node", "n1"]);
    trial.testbed(&["down"]);
    assert_eq!(trial.traces(), Vec::<String>::new(), "something is left");
}

/// A program that starts others, one of which leaves its session, and stays.
const COMPANY: &str = "#!/bin/sh\nsleep 1000 &\nsetsid sleep 1000 &\n: > $HEMICYCLE_BED.up\nwait\n";

/// A script such as `./demo` that runs it.
fn script(trial: &Trial, programs: &Path, name: &str) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let bed = trial.state.display();
    let root = root.display();
    let line = format!("set -eu; root={root}; bed={bed}; . {root}/e2e/machine.sh; with_bed {name}");
    let mut command = trial.command("/bin/sh");
    command.args(["-c", &line]).env("CARGO_TARGET_DIR", programs).stderr(Stdio::piped());
    command.spawn().expect("a shell")
}

#[test]
fn a_script_that_is_killed_takes_along_all_that_it_started() {
    let trial = Trial::new("hemicycle-killed-run");
    let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed-run");
    let _ = fs::remove_dir_all(&programs);
    fs::create_dir_all(programs.join("debug")).expect("a directory of programs");
    symlink(env!("CARGO_BIN_EXE_testbed"), programs.join("debug/testbed")).expect("a link");
    symlink("/bin/true", programs.join("debug/brief")).expect("a link");
    let company = programs.join("debug/company");
    fs::write(&company, COMPANY).expect("a program");
    fs::set_permissions(&company, fs::Permissions::from_mode(0o755)).expect("its mode");
    let up = trial.state.with_added_extension("up");
    let begin = || {
        let _ = fs::remove_file(&up);
        let begun = script(&trial, &programs, "company");
        until("the program runs", 60, || up.exists());
        begun
    };
    for (how, code) in [("TERM", 143), ("INT", 130), ("HUP", 143)] {
        let mut running = begin();
        signal(how, i64::from(running.id()));
        assert_eq!(running.wait().expect("it ends").code(), Some(code), "after {how}");
        assert_eq!(trial.traces(), Vec::<String>::new(), "something is left after {how}");
    }
    let mut running = begin();
    let second = script(&trial, &programs, "brief").wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another run uses the test bed"), "{said}");
    assert!(running.try_wait().expect("it runs").is_none(), "the second run ended the first");
    // The shell cannot act on this one; its guard does, or the next run, if that comes first.
    signal("KILL", i64::from(running.id()));
    running.wait().expect("it ends");
    until("nothing is left after KILL", 30, || trial.traces().is_empty());
    let mut running = begin();
    signal("KILL", i64::from(running.id()));
    running.wait().expect("it ends");
    let next = script(&trial, &programs, "brief").wait_with_output().expect("it ends");
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    // The guard of the one that was killed may still look around.
    until("nothing is left after KILL and a run", 30, || trial.traces().is_empty());
    let _ = fs::remove_file(up);
}
