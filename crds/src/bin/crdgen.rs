//! `crdgen <directory>…`: writes the resource definitions into each directory.
//!
//! `cargo run -p hemicycle-crds --bin crdgen -- crds/generated charts/hemicycle-crds/templates`

use std::{env, fs, path::PathBuf};

fn main() -> anyhow::Result<()> {
    let directories: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    anyhow::ensure!(!directories.is_empty(), "name at least one directory to write to");
    for directory in directories {
        fs::create_dir_all(&directory)?;
        for (name, yaml) in hemicycle_crds::generate::files()? {
            fs::write(directory.join(name), yaml)?;
        }
    }
    Ok(())
}
