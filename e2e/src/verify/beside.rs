//! Several hands at one pile of work, beside each other, each with a part of the stage's log. What
//! the work is they decide.
//!
//! Invariant: everything on the pile is taken at most once; a hand that fails fails the stage.

use std::sync::Mutex;
use std::thread;
use std::vec::IntoIter;

use anyhow::{bail, ensure};

use super::Log;

/// What is still to be done.
#[derive(Debug)]
pub(super) struct Pile<T>(Mutex<IntoIter<T>>);

impl<T> Pile<T> {
    /// The next thing, which nobody else gets.
    pub(super) fn next(&self) -> Option<T> {
        self.0.lock().ok().and_then(|mut left| left.next())
    }
}

/// Has each of `hands` do `work` on the pile of `things`, and adds their parts to `log`.
pub(super) fn share<H: Send, T: Send>(
    log: &Log,
    hands: &mut [H],
    things: Vec<T>,
    work: impl Fn(&mut H, &Log, &Pile<T>) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let pile = Pile(Mutex::new(things.into_iter()));
    let parts = (1..=hands.len()).map(|n| log.part(n)).collect::<anyhow::Result<Vec<_>>>()?;
    let failures: Vec<_> = thread::scope(|scope| {
        let (work, pile) = (&work, &pile);
        let pairs = hands.iter_mut().zip(&parts);
        let running: Vec<_> =
            pairs.map(|(hand, part)| scope.spawn(move || work(hand, part, pile))).collect();
        let ends = running
            .into_iter()
            .map(|hand| hand.join().unwrap_or_else(|_| bail!("whoever did a part of it crashed")));
        ends.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    });
    parts.iter().for_each(|part| log.take_in(part));
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
