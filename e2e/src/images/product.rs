//! The product's three images, from the Containerfiles that users build too.
//!
//! The binaries are linked statically in one cargo call, in a target directory of their own
//! outside the checkout. Each Containerfile sees a context that holds the three binaries by name
//! and the meeting page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::build;
use crate::bed::{Error, Progress, Result};
use crate::process::run;
use crate::{cache, page as meeting_page};

/// The only platform that images are built for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// A node should have a new image in a second: none may be larger than this.
pub const IMAGE_MIB_MAX: u64 = 30;

/// Names a directory with images that were built before, which are then taken as they are.
const BUILT_VARIABLE: &str = "HEMICYCLE_IMAGES";

/// Binary and image name, and the directory of its Containerfile.
const IMAGES: [(&str, &str); 3] =
    [("media-node", "media-node"), ("gateway", "operator/gateway"), ("operator", "operator")];

/// The program that travels in the operator's image.
const PROOF: &str = "hemicycle-proof";

/// Builds the three images and returns their archives, tagged `localhost/hemicycle/NAME:dev`.
///
/// # Errors
/// If the compiler or buildah fails.
pub fn product(progress: Progress<'_>) -> Result<Vec<PathBuf>> {
    if let Some(built) = std::env::var_os(BUILT_VARIABLE) {
        let built = PathBuf::from(built);
        progress(&format!("taking the images from {}", built.display()));
        return Ok(IMAGES.iter().map(|(name, _)| built.join(format!("{name}.tar"))).collect());
    }
    let lock = cache::lock("images");
    let _held = lock.map_err(|source| Error::file("lock", &cache::directory(), source))?;
    progress("building static binaries (several minutes the first time)");
    let binaries = binaries()?;
    let page = meeting_page::build()?;
    let output = cache::directory().join("images");
    let context = super::scratch("context-product")?;
    let mut archives = Vec::new();
    for (name, directory) in IMAGES {
        let _ = fs::remove_dir_all(&context);
        let filled = fill(&context, &binaries, &page);
        filled.map_err(|source| Error::file("fill", &context, source))?;
        let containerfile = cache::checkout().join(directory).join("Containerfile");
        let tag = format!("localhost/hemicycle/{name}:dev");
        let archive = output.join(format!("{name}.tar"));
        let proof = binaries.join(PROOF);
        if is_current(&archive, &[&binaries.join(name), &proof, &containerfile, &page]) {
            progress(&format!("{tag} is built already"));
        } else {
            build(&containerfile, &context, &tag, &archive)?;
        }
        let size =
            fs::metadata(&archive).map_err(|source| Error::file("read", &archive, source))?;
        progress(&format!("{tag}: {:.1} MiB", size.len() as f64 / 1_048_576.0));
        if size.len() > IMAGE_MIB_MAX * 1_048_576 {
            return Err(Error::Machine {
                what: format!("image {tag} is larger than {IMAGE_MIB_MAX} MiB"),
                remedy: "look for debug symbols or a dependency that does not belong there",
            });
        }
        archives.push(archive);
    }
    let _ = fs::remove_dir_all(&context);
    Ok(archives)
}

/// Compiles the static binaries and returns their directory.
///
/// # Errors
/// If the compiler fails.
pub fn binaries() -> Result<PathBuf> {
    let programs = IMAGES.iter().flat_map(|(name, _)| ["--package", name, "--bin", name]);
    compile(programs.chain(["--package", PROOF, "--bin", PROOF]))
}

/// Compiles the load generator the same way and returns its path. The images' packages are named
/// too: with them its libraries have the features with which they are compiled already.
///
/// # Errors
/// If the compiler fails.
pub fn load_generator() -> Result<PathBuf> {
    let packages = IMAGES.iter().flat_map(|(name, _)| ["--package", name]);
    let load = ["--package", PROOF, "--package", "e2e", "--bin", "load"];
    Ok(compile(packages.chain(load))?.join("load"))
}

fn compile<'a>(programs: impl Iterator<Item = &'a str>) -> Result<PathBuf> {
    let target = cache::directory().join("target-static");
    let mut command = Command::new("cargo");
    command.current_dir(cache::checkout()).env("CARGO_TARGET_DIR", &target);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.args(["build", "--release", "--locked", "--target", PLATFORM]).args(programs);
    run(&mut command)?;
    Ok(target.join(PLATFORM).join("release"))
}

/// Hard links where the file system allows, so that the context costs nothing.
fn fill(context: &Path, binaries: &Path, page: &Path) -> std::io::Result<()> {
    copy_all(page, &context.join("page"))?;
    for name in IMAGES.iter().map(|(name, _)| *name).chain([PROOF]) {
        let (from, to) = (binaries.join(name), context.join(name));
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(|_| ()))?;
    }
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, target) = (entry?, to.to_owned());
        let target = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn is_current(archive: &Path, sources: &[&Path]) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let Some(made) = time(archive) else {
        return false;
    };
    sources.iter().all(|source| time(source).is_some_and(|changed| changed < made))
}
