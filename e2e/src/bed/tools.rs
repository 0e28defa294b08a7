//! The programs of the cluster: Kubernetes, etcd, helm, CoreDNS and kwok from pinned Go modules,
//! `pause` from Kubernetes' own source, and the few images that a bare cluster needs.
//!
//! They are built once into a directory named after the hash of the lock files and the flags.
//! Invariant: a directory without its mark is half-built, and is never used but built again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;

use super::{Error, Progress, Result};
use crate::process::{fetch, run};
use crate::{cache, images};

/// A Kubernetes minor release that the bed can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minor {
    /// The one that is always tested, and the only one that brings helm, kwok and CoreDNS.
    V1_37,
    /// The oldest one supported.
    V1_34,
}

impl Minor {
    /// The release called `name`, as in `1.37`.
    ///
    /// # Errors
    /// If it is not pinned in `e2e/tools`.
    pub fn named(name: &str) -> Result<Self> {
        let all = [Self::V1_37, Self::V1_34];
        all.into_iter().find(|minor| minor.name() == name).ok_or_else(|| Error::Unknown {
            name: format!("Kubernetes {name}"),
            known: all.map(Self::name).join(", "),
        })
    }

    /// As in `1.37`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_37 => "1.37",
            Self::V1_34 => "1.34",
        }
    }

    fn module(self) -> PathBuf {
        cache::checkout().join("e2e/tools").join(format!("k8s-{}", self.name()))
    }
}

/// Main packages of every release.
const KUBERNETES: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// Main packages that only the newest release's module pins.
const EXTRAS: [&str; 3] = ["helm.sh/helm/v4/cmd/helm", "sigs.k8s.io/kwok/cmd/kwok", "./coredns"];

/// Part of the key: a change of how we build makes new directories.
const FLAGS: &str = "CGO_ENABLED=0 -mod=readonly -trimpath -s -w 2";

/// Commands of the bed's busybox image.
const BUSYBOX: [&str; 16] = [
    "sh", "sleep", "cat", "ls", "wget", "nc", "httpd", "nslookup", "echo", "ping", "ip", "id",
    "env", "hostname", "date", "ps",
];

/// Where the programs of one bed are; the first directory that has one wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    directories: Vec<PathBuf>,
}

impl Tools {
    /// Finds the programs of `minor`, or builds them (about seven minutes on two cores, once).
    ///
    /// # Errors
    /// If a compiler is missing, a module cannot be had or a build fails.
    pub fn ensure(minor: Minor, progress: Progress<'_>) -> Result<Self> {
        let mut directories = vec![build(minor, progress)?];
        if minor != Minor::V1_37 {
            directories.push(build(Minor::V1_37, progress)?);
        }
        Ok(Self { directories })
    }

    pub(super) fn from_directories(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// The directories, one a line.
    pub(super) fn list(&self) -> String {
        self.directories.iter().map(|directory| format!("{}\n", directory.display())).collect()
    }

    /// The program called `name`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        let mut paths = self.directories.iter().map(|directory| directory.join(name));
        paths.find(|path| path.exists()).unwrap_or_else(|| name.into())
    }

    /// `PATH` with the cluster's programs in front.
    #[must_use]
    pub fn search_path(&self) -> OsString {
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let rest: Vec<_> = std::env::split_paths(&rest).collect();
        let own = self.directories.iter().filter(|own| !rest.contains(own)).cloned();
        let all: Vec<_> = own.chain(rest.iter().cloned()).collect();
        std::env::join_paths(all).unwrap_or_default()
    }

    /// The images that every node gets at its first start.
    pub(super) fn images(&self) -> Vec<PathBuf> {
        ["pause", "busybox", "coredns"].map(|name| self.path(&format!("images/{name}.tar"))).into()
    }
}

fn build(minor: Minor, progress: Progress<'_>) -> Result<PathBuf> {
    let output = cache::directory().join(format!("bin-{}-{}", minor.name(), key(minor)?));
    let mark = output.join("complete");
    let name = format!("tools-{}", minor.name());
    let lock = cache::lock(&name);
    let _held = lock.map_err(|source| Error::file("lock", &cache::directory(), source))?;
    if is_whole(&output, &mark) {
        return Ok(output);
    }
    progress(&format!(
        "building Kubernetes {} into {} (about 7 minutes on two cores, once)",
        minor.name(),
        output.display()
    ));
    // Half-built, or in part removed since.
    if let Err(source) = fs::remove_dir_all(&output)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(Error::file("remove", &output, source));
    }
    fs::create_dir_all(&output).map_err(|source| Error::file("create", &output, source))?;
    build_programs(minor, &output)?;
    build_pause(minor, &output)?;
    build_echo(&output)?;
    build_images(&output)?;
    let made = made_in(&output).map_err(|source| Error::file("list", &output, source))?;
    fs::write(&mark, made.join("\n")).map_err(|source| Error::file("write", &mark, source))?;
    Ok(output)
}

/// Whether everything that the mark names is there.
fn is_whole(output: &Path, mark: &Path) -> bool {
    let made = fs::read_to_string(mark);
    made.is_ok_and(|made| made.lines().all(|name| output.join(name).exists()))
}

/// The programs and images in `output`, below it.
fn made_in(output: &Path) -> io::Result<Vec<String>> {
    let mut made = Vec::new();
    for below in ["", "images"] {
        for entry in fs::read_dir(output.join(below))? {
            let path = Path::new(below).join(entry?.file_name());
            made.push(path.to_string_lossy().into_owned());
        }
    }
    made.sort();
    Ok(made)
}

/// A short name of everything that the outputs depend on.
fn key(minor: Minor) -> Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(FLAGS.as_bytes());
    let module = minor.module();
    for file in ["go.mod", "go.sum", "coredns/main.go"] {
        let path = module.join(file);
        match fs::read(&path) {
            Ok(text) => context.update(&text),
            Err(_) if file.starts_with("coredns") => {}
            Err(source) => return Err(Error::file("read", &path, source)),
        }
    }
    let hash = context.finish();
    Ok(hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn go(minor: Minor) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "10", "go"]).current_dir(minor.module());
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    command
}

fn build_programs(minor: Minor, output: &Path) -> Result<()> {
    let format = ["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"];
    fetch(
        "go",
        "the module of Kubernetes",
        go(minor).args(["mod", "download", "k8s.io/kubernetes"]),
    )?;
    let version = run(go(minor).args(format))?;
    let version = version.trim();
    let number = minor.name().trim_start_matches("1.");
    let mut link = "-s -w".to_owned();
    // Server, nodes and kubectl then all say the version that they are.
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", "1"),
            ("gitMinor", number),
            ("gitTreeState", "clean"),
            ("gitCommit", "0000000000000000000000000000000000000000"),
            ("buildDate", "1970-01-01T00:00:00Z"),
        ] {
            link.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    let mut packages: Vec<_> =
        KUBERNETES.iter().map(|name| format!("k8s.io/kubernetes/cmd/{name}")).collect();
    if minor == Minor::V1_37 {
        packages.extend(EXTRAS.map(str::to_owned));
    }
    let directory = format!("{}/", output.display());
    let flags = ["build", "-trimpath", "-ldflags", &link, "-o", &directory];
    fetch("go", "Kubernetes", go(minor).args(flags).args(packages))?;
    let etcd = output.join("etcd");
    let flags = ["build", "-trimpath", "-ldflags", "-s -w", "-o"];
    fetch("go", "etcd", go(minor).args(flags).arg(etcd).arg("go.etcd.io/etcd/server/v3"))
}

/// `pause` is the first process of every pod, of every node and of the bed itself.
fn build_pause(minor: Minor, output: &Path) -> Result<()> {
    let directory = run(go(minor).args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]))?;
    let source = Path::new(directory.trim()).join("build/pause/linux/pause.c");
    let flags = ["-Os", "-static", "-Wall", "-DVERSION=hemicycle", "-o"];
    run(Command::new("cc").args(flags).arg(output.join("pause")).arg(source)).map(|_| ())
}

/// Sends back every UDP packet: what busybox lacks.
fn build_echo(output: &Path) -> Result<()> {
    let source = cache::checkout().join("e2e/src/bed/udpecho.c");
    let flags = ["-Os", "-static", "-Wall", "-o"];
    run(Command::new("cc").args(flags).arg(output.join("udpecho")).arg(source)).map(|_| ())
}

fn build_images(output: &Path) -> Result<()> {
    let busybox = run(Command::new("sh").args(["-c", "command -v busybox"]))?;
    let images = output.join("images");
    images::from_files("pause", &images, &[("/pause", &output.join("pause"))], &[], "/pause")?;
    let echo = output.join("udpecho");
    let files = [("/bin/busybox", Path::new(busybox.trim())), ("/bin/udpecho", &echo)];
    images::from_files("busybox", &images, &files, &BUSYBOX, "/bin/sh")?;
    let coredns = output.join("coredns");
    if coredns.exists() {
        images::from_files("coredns", &images, &[("/coredns", &coredns)], &[], "/coredns")?;
    }
    Ok(())
}
