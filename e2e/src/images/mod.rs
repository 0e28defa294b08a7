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
