//! Coverage-guided fuzzing of every parser that is ours, in one program: libFuzzer's options
//! apply.
//!
//! `HEMICYCLE_FUZZ_TARGET` names the target, `HEMICYCLE_FUZZ_SEEDS` a directory into which the
//! seeds of all targets are written instead. Decides nothing about findings: any panic, debug
//! assertion, overflow, hang or excess of memory is one.

#![no_main]

mod call;
mod contract;
mod media;
mod proof;
mod records;
mod seeds;
mod shard;
mod shell;
#[path = "../../../media-node/core/tests/sim_support/mod.rs"]
mod sim_support;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

/// Names and functions. A new parser gets a line here and seeds in [`seeds`].
const TARGETS: [(&str, Target); 16] = [
    ("token", contract::token),
    ("frame", contract::frame),
    ("twirp", contract::twirp),
    ("connect", contract::connect),
    ("keys", contract::keys),
    ("config", shell::config),
    ("frames", shell::frames),
    ("payload", media::payload),
    ("red", media::red),
    ("numbers", media::numbers),
    ("rtcp", media::rtcp),
    ("shard", shard::shard),
    ("call", call::call),
    ("envelope", proof::envelope),
    ("bundle", proof::bundle),
    ("journal", proof::journal),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fn choose() {
    if let Some(directory) = std::env::var_os("HEMICYCLE_FUZZ_SEEDS") {
        seeds::write(directory.as_ref()).expect("the seeds can be written");
        std::process::exit(0);
    }
    let name = std::env::var("HEMICYCLE_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let names = TARGETS.map(|(known, _)| known).join(", ");
    let (_, target) = found.unwrap_or_else(|| panic!("HEMICYCLE_FUZZ_TARGET: one of {names}"));
    TARGET.get_or_init(|| *target);
}

fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        target(data);
    }
});
