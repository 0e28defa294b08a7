//! Which of the last numbers of a source were already seen.
//!
//! A bitmap that slides with the highest number. Decides nothing but new, seen, unseen or too
//! old. Invariant: fixed size; a number inside the window is reported unseen at most once.

/// Numbers remembered. At 400 packets a second, a busy 4 Mbit/s layer, this is 2.5 s: longer than
/// any retransmission that a receiver could still use.
pub const WINDOW_PACKETS: u64 = 1024;
const WORDS: usize = 16;

/// Where a number stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Above everything so far, by this many.
    Newer(u64),
    /// Below the highest and not seen before.
    Late,
    /// Seen before.
    Seen,
    /// Below the window.
    TooOld,
}

/// The sliding window.
#[derive(Debug, Clone)]
pub struct SeenWindow {
    highest: u64,
    bits: [u64; WORDS],
}

impl SeenWindow {
    /// Starts with `first` as the highest number, seen.
    #[must_use]
    pub fn new(first: u64) -> Self {
        let mut window = Self { highest: first, bits: [0; WORDS] };
        window.set(first, true);
        window
    }

    /// The highest number seen.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The lowest number that the window can still tell apart.
    #[must_use]
    pub fn base(&self) -> u64 {
        (self.highest + 1).saturating_sub(WINDOW_PACKETS)
    }

    /// Where `number` stands, without changing anything.
    #[must_use]
    pub fn place(&self, number: u64) -> Place {
        if number > self.highest {
            Place::Newer(number - self.highest)
        } else if number < self.base() {
            Place::TooOld
        } else if self.get(number) {
            Place::Seen
        } else {
            Place::Late
        }
    }

    /// Marks `number` as seen and slides the window when it is the highest.
    pub fn mark(&mut self, number: u64) {
        if number > self.highest {
            if number - self.highest >= WINDOW_PACKETS {
                self.bits = [0; WORDS];
            } else {
                for passed in self.highest + 1..number {
                    self.set(passed, false);
                }
            }
            self.highest = number;
        }
        if number >= self.base() {
            self.set(number, true);
        }
    }

    fn slot(number: u64) -> (usize, u64) {
        let position = number % WINDOW_PACKETS;
        ((position / 64) as usize, 1 << (position % 64))
    }

    fn get(&self, number: u64) -> bool {
        let (word, bit) = Self::slot(number);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn set(&mut self, number: u64, seen: bool) {
        let (word, bit) = Self::slot(number);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits = if seen { *bits | bit } else { *bits & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_late_once_and_forgotten_when_it_falls_out() {
        let mut window = SeenWindow::new(10_000);
        window.mark(10_003);
        assert_eq!(window.place(10_001), Place::Late);
        window.mark(10_001);
        assert_eq!(window.place(10_001), Place::Seen);
        assert_eq!(window.place(10_004), Place::Newer(1));
        window.mark(10_003 + WINDOW_PACKETS);
        assert_eq!(window.place(10_003), Place::TooOld);
        assert_eq!(window.place(10_004), Place::Late);
    }
}
