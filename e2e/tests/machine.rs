//! That a machine which cannot carry a test bed is told so in one line, before anything is changed.
//!
//! Runs the real scripts on a machine made of stand-ins: `PATH` holds only what is named here, and
//! mounts and sizes are faked in a mount namespace. Needs root, as the scripts do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of the machine that the scripts may use as they are.
const REAL: [&str; 16] = [
    "awk", "cat", "cp", "df", "dirname", "grep", "ls", "mkdir", "mount", "nice", "rm", "sh",
    "tail", "touch", "tr", "umount",
];

/// Programs that act as on a machine where all is well, and write down that they were called.
/// Nothing is compiled: what gets past every check ends there.
const STAND_INS: [(&str, &str); 10] = [
    ("id", "[ $1 = -u ] && echo 0 || echo root"),
    ("uname", "case $1 in -s) echo Linux ;; -m) echo x86_64 ;; *) echo Linux x86_64 ;; esac"),
    ("cargo", "echo cargo $1 >> $CALLS; [ $1 = fetch ]"),
    ("go", "echo go $1 >> $CALLS"),
    ("node", ""),
    ("npm", ""),
    ("dpkg-query", "echo install ok installed"),
    ("apt-get", "echo apt-get $1 >> $CALLS; exit 100"),
    ("cc", r#"while [ "$1" != -o ]; do shift; done; touch $2"#),
    (
        "buildah",
        r"for word; do case $word in oci-archive:*) a=${word#*:}; touch ${a%%:*} ;; esac; done",
    ),
];

/// What Go's compiler leaves behind, for the programs of the newest release.
const GO: &str = r#"
case $1 in
  list) case $* in *Version*) echo v1.37.2 ;; *) echo / ;; esac ;;
  build)
    while [ "$1" != -o ]; do shift; done
    case $2 in
      */)
        for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy \
            kubectl helm kwok coredns; do touch $2$name; done ;;
      *) [ ! -e $STATE/no-network ] && touch $2 ;;
    esac ;;
esac
"#;

/// A machine, gone when dropped.
struct Machine {
    directory: PathBuf,
}

/// How a script ended, and what it called.
struct Ended {
    passed: bool,
    complaint: String,
    calls: String,
}

impl Machine {
    fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machine-{name}"));
        let _ = fs::remove_dir_all(&directory);
        let machine = Self { directory };
        fs::create_dir_all(machine.path("bin")).expect("a directory of programs");
        // As after a first run: little is written then, so the test's own disk is large enough.
        fs::create_dir_all(machine.path("cache/bin-1/")).expect("a cache");
        fs::write(machine.path("cache/bin-1/complete"), "").expect("a mark");
        for name in REAL {
            let found =
                ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|at| Path::new(at).join(name));
            let real = found.iter().find(|path| path.exists()).expect("Debian has it");
            symlink(real, machine.path("bin").join(name)).expect("a link");
        }
        symlink("/bin/true", machine.path("bin/busybox")).expect("a link");
        for (name, script) in STAND_INS {
            machine.program(name, script);
        }
        machine
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.join(below)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// Runs a line of shell in a mount namespace of its own, with the checkout's root as `$ROOT`.
    fn run(&self, line: &str) -> Ended {
        let calls = self.path("calls");
        let _ = fs::remove_file(&calls);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let output = Command::new("/usr/bin/unshare")
            .args(["--mount", "--", "/bin/sh", "-c", &format!("set -e; {line}")])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("ROOT", root)
            .env("TESTBED", env!("CARGO_BIN_EXE_testbed"))
            .env("STATE", &self.directory)
            .env("CALLS", &calls)
            .env("HEMICYCLE_CACHE", self.path("cache"))
            .env("HEMICYCLE_BED", self.path("bed"))
            .output()
            .expect("unshare is installed");
        Ended {
            passed: output.status.success(),
            complaint: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
            calls: fs::read_to_string(calls).unwrap_or_default(),
        }
    }

    /// What `line` complains of: one line, before anything is installed or compiled.
    fn refused(&self, line: &str) -> String {
        let Ended { passed, complaint, calls } = self.run(line);
        assert!(!passed, "`{line}` goes on; it called {calls}");
        assert_eq!(
            complaint.lines().count(),
            1,
            "`{line}` complains in other than a line: {complaint}"
        );
        assert!(!calls.contains("build"), "`{line}` compiles first: {calls}");
        let tried = calls.contains("apt-get") && !complaint.contains("apt-get");
        assert!(!tried, "`{line}` installs first: {calls}");
        complaint
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_machine_where_all_is_well_is_let_through() {
    let machine = Machine::new("well");
    for script in ["verify", "demo", "testbed up"] {
        let Ended { complaint, calls, .. } = machine.run(&format!("$ROOT/{script}"));
        assert_eq!(calls, "cargo fetch\ncargo build\n", "{script}: {complaint}");
        assert!(!complaint.contains("run it as root"), "{complaint}");
    }
}

#[test]
fn another_user_or_another_kind_of_machine_is_refused() {
    let machine = Machine::new("kind");
    machine.program("id", "[ $1 = -u ] && echo 1000 || echo ada");
    for script in ["verify", "demo --check", "testbed up"] {
        let said = machine.refused(&format!("$ROOT/{script}"));
        assert!(said.ends_with("this is user ada: run it as root (sudo)"), "{said}");
    }
    let machine = Machine::new("processor");
    machine.program("uname", "case $1 in -m) echo aarch64 ;; *) echo Linux ;; esac");
    assert!(machine.refused("$ROOT/verify").ends_with("run it on Linux on x86_64"));
}

#[test]
fn a_missing_toolchain_is_named() {
    for (program, package) in
        [("go", "Go"), ("node", "Node.js"), ("npm", "Node.js"), ("cargo", "Rust")]
    {
        let machine = Machine::new("toolchain");
        fs::remove_file(machine.path("bin").join(program)).expect("it was there");
        let said = machine.refused("$ROOT/demo");
        assert_eq!(said, format!("demo: {program} is not in PATH: install {package}"));
    }
}

#[test]
fn too_little_memory_is_refused() {
    let machine = Machine::new("memory");
    fs::write(machine.path("meminfo"), "MemTotal: 8000000 kB\nMemAvailable:  2048000 kB\n")
        .unwrap();
    let said = machine.refused("mount --bind $STATE/meminfo /proc/meminfo; $ROOT/verify");
    assert!(said.starts_with("verify: 2000 MiB of memory are free, 6000 are needed: "), "{said}");
}

#[test]
fn a_machine_without_cgroup_v1_is_refused() {
    let machine = Machine::new("cgroup");
    let said = machine.refused("umount -R -l /sys/fs/cgroup; $ROOT/testbed up");
    assert!(said.contains("no cgroup v1") && said.contains("boot with"), "{said}");
}

#[test]
fn too_little_disk_and_places_that_cannot_be_written_are_refused() {
    let machine = Machine::new("disk");
    for (place, variable) in [("cache", "HEMICYCLE_CACHE"), ("bed", "HEMICYCLE_BED")] {
        let at = machine.path(place).display().to_string();
        let small = format!("mkdir -p {at}; mount -t tmpfs -o size=8m small {at}; $ROOT/verify");
        let said = machine.refused(&small);
        assert!(said.contains(&format!("8 MiB of disk are free at {at}, ")), "{said}");
        assert!(said.contains("are needed: free some, or set "), "{said}");
        assert!(said.contains(variable), "{said}");
        let locked = format!("mkdir -p {at}; mount -t tmpfs -o ro locked {at}; $ROOT/verify");
        let said = machine.refused(&locked);
        assert!(said.starts_with(&format!("verify: cannot write {at}: ")), "{said}");
    }
    let said = machine.refused("HEMICYCLE_BED=$STATE/bin/go/bed $ROOT/demo");
    assert!(said.contains("bin/go is no directory"), "{said}");
}

#[test]
fn a_taken_port_is_refused_where_it_will_be_used() {
    let machine = Machine::new("port");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = holder.local_addr().expect("its address").port();
    for line in [format!("--port {port}"), format!("--port={port}")] {
        let said = machine.refused(&format!("$ROOT/demo {line}"));
        let wanted = format!("demo: port {port} on this machine is taken: end what listens there");
        assert!(said.starts_with(&wanted), "{said}");
    }
    let went_on = machine.run(&format!("$ROOT/demo --check --port {port}"));
    assert!(
        went_on.calls.contains("cargo build"),
        "--check listens nowhere: {}",
        went_on.complaint
    );
}

#[test]
fn a_package_that_cannot_be_installed_is_named() {
    let machine = Machine::new("package");
    machine.program("dpkg-query", "[ $4 != socat ] && echo install ok installed");
    let said = machine.refused("$ROOT/demo --check > /dev/null");
    let log = machine.path("cache/apt.log").display().to_string();
    let wanted = format!("demo: apt-get cannot install socat (see {log}): look at the network");
    assert!(said.starts_with(&wanted), "{said}");
}

#[test]
fn crates_that_cannot_be_had_are_told_before_packages_are_installed() {
    let machine = Machine::new("crates");
    machine.program("cargo", "echo no route to host; exit 101");
    machine.program("dpkg-query", "exit 1");
    let said = machine.refused("$ROOT/verify");
    let log = machine.path("cache/cargo-fetch.log");
    assert!(said.contains("cargo cannot fetch the crates") && said.contains("look at the network"));
    assert!(said.contains(&log.display().to_string()), "{said}");
    assert_eq!(fs::read_to_string(log).expect("a log"), "no route to host\n");
}

#[test]
fn modules_that_cannot_be_had_are_told_and_leave_nothing_that_looks_built() {
    let machine = Machine::new("modules");
    machine.program("go", "echo no route to host; exit 1");
    let said = machine.refused("$TESTBED tools > /dev/null");
    let log = machine.path("cache/go.log").display().to_string();
    assert!(said.starts_with("testbed: go cannot get or build the module of Kubernetes"), "{said}");
    assert!(said.contains(&log) && said.contains("look at the network"), "{said}");
}

#[test]
fn a_half_built_cache_is_built_again() {
    let machine = Machine::new("half-built");
    machine.program("go", GO);
    let programs = || {
        let entries = fs::read_dir(machine.path("cache")).expect("a cache").flatten();
        let mut found = entries.map(|entry| entry.path());
        found.find(|path| path.to_string_lossy().contains("bin-1.37-")).expect("programs")
    };
    // The network goes after Kubernetes was built and before etcd is.
    fs::write(machine.path("no-network"), "").expect("a switch");
    assert!(!machine.run("$TESTBED tools").passed, "a failed build passes");
    assert!(programs().join("kubectl").exists() && !programs().join("complete").exists());
    fs::remove_file(machine.path("no-network")).expect("a switch");
    let built = machine.run("$TESTBED tools");
    assert!(built.passed && programs().join("complete").exists(), "{}", built.complaint);
    // Somebody makes room on the disk.
    fs::remove_file(programs().join("kubectl")).expect("a program");
    assert!(machine.run("$TESTBED tools").passed);
    assert!(programs().join("kubectl").exists(), "a program that is gone is not built again");
}
