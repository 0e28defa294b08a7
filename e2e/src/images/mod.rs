//! Images without an engine: the product's three from their Containerfiles, and the bed's own
//! from single files. Built by buildah in a chroot, kept as OCI archives that `testbed load`
//! imports.
//!
//! Invariant: nothing is pulled; every image starts from scratch.

mod product;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bed::{Error, Result};
use crate::cache;
use crate::process::run;

pub use product::{IMAGE_MIB_MAX, binaries, load_generator, product};

/// Builds an image called `localhost/hemicycle-bed/NAME:1` from `files` (where in the image,
/// which file), with links to the first file for each of `links`, as `NAME.tar` in `output`.
///
/// # Errors
/// If a file cannot be copied or buildah fails.
pub fn from_files(
    name: &str,
    output: &Path,
    files: &[(&str, &Path)],
    links: &[&str],
    entry: &str,
) -> Result<PathBuf> {
    let context = scratch(&format!("context-{name}"))?;
    let root = context.join("root");
    let made = fill(&root, files, links);
    made.map_err(|source| Error::file("fill", &root, source))?;
    let text = format!("FROM scratch\nCOPY root /\nENTRYPOINT [\"{entry}\"]\n");
    let containerfile = context.join("Containerfile");
    fs::write(&containerfile, text)
        .map_err(|source| Error::file("write", &containerfile, source))?;
    let tag = format!("localhost/hemicycle-bed/{name}:1");
    let built = build(&containerfile, &context, &tag, &output.join(format!("{name}.tar")));
    // What is left of it costs only disk.
    let _ = fs::remove_dir_all(&context);
    built
}

fn scratch(name: &str) -> Result<PathBuf> {
    cache::scratch(name).map_err(|source| Error::file("make room in", &cache::directory(), source))
}

fn fill(root: &Path, files: &[(&str, &Path)], links: &[&str]) -> std::io::Result<()> {
    fs::create_dir_all(root.join("tmp"))?;
    fs::create_dir_all(root.join("bin"))?;
    for (inside, file) in files {
        fs::copy(file, root.join(inside.trim_start_matches('/')))?;
    }
    for link in links {
        let target = files.first().map_or("", |(inside, _)| inside);
        symlink(target, root.join("bin").join(link))?;
    }
    Ok(())
}

/// What an image in an OCI archive of ours is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// By tag, as in `localhost/hemicycle/operator:dev`.
    pub tagged: String,
    /// Digest of its manifest, as in `sha256:…`.
    pub digest: String,
}

impl Reference {
    /// Reads it from the archive.
    ///
    /// # Errors
    /// If it cannot be read, or holds no named image.
    pub fn of(archive: &Path) -> Result<Self> {
        let text = run(Command::new("tar").arg("-xOf").arg(archive).arg("index.json"))?;
        let index: Value = serde_json::from_str(&text).unwrap_or_default();
        let manifest = &index["manifests"][0];
        let tagged = manifest["annotations"]["org.opencontainers.image.ref.name"].as_str();
        match (tagged, manifest["digest"].as_str()) {
            (Some(tagged), Some(digest)) => {
                Ok(Self { tagged: tagged.to_owned(), digest: digest.to_owned() })
            }
            _ => Err(Error::Machine {
                what: format!("{} holds no named image", archive.display()),
                remedy: "remove it, and it is built again",
            }),
        }
    }

    /// By digest, as in `localhost/hemicycle/operator@sha256:…`.
    #[must_use]
    pub fn pinned(&self) -> String {
        let (name, _) = self.tagged.rsplit_once(':').unwrap_or((&self.tagged, ""));
        format!("{name}@{}", self.digest)
    }
}

/// Builds `containerfile` with `context` as `tag` into the OCI archive `output`.
///
/// # Errors
/// If buildah fails.
pub fn build(containerfile: &Path, context: &Path, tag: &str, output: &Path) -> Result<PathBuf> {
    let parent = output.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|source| Error::file("create", parent, source))?;
    // A store of its own, gone afterwards: nothing of the machine's images is touched or filled.
    let image = output.file_stem().unwrap_or_default().to_string_lossy();
    let store = scratch(&format!("buildah-{image}"))?;
    let buildah = || {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
        command.args(["--storage-driver", "vfs"]);
        command
    };
    let partial = output.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let built = run(buildah()
        .args(["bud", "--isolation", "chroot", "--pull-never", "--tag", tag, "--file"])
        .arg(containerfile)
        .arg(context))
    .and_then(|_| {
        let target = format!("oci-archive:{}:{tag}", partial.display());
        run(buildah().args(["push", tag, &target]))
    });
    let _ = fs::remove_dir_all(&store);
    built?;
    fs::rename(&partial, output).map_err(|source| Error::file("write", output, source))?;
    Ok(output.to_owned())
}
