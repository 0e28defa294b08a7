//! Which SRTCP packets came before (RFC 3711 §3.3.2): a window for each sender.
//!
//! Invariant: what is not newer than the window is taken to have come; memory is bounded.

/// Senders remembered for one peer. Firefox reports from another SSRC for each section, of which
/// there are 300 at most; beyond this the one that was silent longest is forgotten.
const SENDERS_MAX: usize = 512;
/// Packets below the newest that may still come.
const WINDOW: u32 = 64;

#[derive(Debug, Clone, Copy)]
struct Sender {
    ssrc: u32,
    highest: u32,
    /// Bit n: `highest` − n came.
    came: u64,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Who sends often is near the front.
    senders: Vec<Sender>,
}

impl Replay {
    /// Whether this packet came before, or is too old to tell.
    pub(super) fn came(&self, ssrc: u32, index: u32) -> bool {
        let Some(sender) = self.senders.iter().find(|sender| sender.ssrc == ssrc) else {
            return false;
        };
        match sender.highest.checked_sub(index) {
            None => false,
            Some(back) => back >= WINDOW || sender.came & (1 << back) != 0,
        }
    }

    /// The packet was authentic.
    pub(super) fn mark(&mut self, ssrc: u32, index: u32) {
        let Some(at) = self.senders.iter().position(|sender| sender.ssrc == ssrc) else {
            if self.senders.len() >= SENDERS_MAX {
                self.senders.pop();
            }
            return self.senders.push(Sender { ssrc, highest: index, came: 1 });
        };
        if let Some(sender) = self.senders.get_mut(at) {
            match index.checked_sub(sender.highest) {
                Some(ahead) => {
                    sender.came = sender.came.checked_shl(ahead).unwrap_or(0) | 1;
                    sender.highest = index;
                }
                None => sender.came |= 1_u64.checked_shl(sender.highest - index).unwrap_or(0),
            }
        }
        if at > 0 {
            self.senders.swap(at, at - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_counts_once_however_the_order() {
        let mut replay = Replay::default();
        for index in [5, 4, 7, 70, 6] {
            let old = index == 6;
            assert_eq!(replay.came(9, index), old, "{index}");
            if !old {
                replay.mark(9, index);
            }
        }
        for index in [5, 4, 7, 70, 0] {
            assert!(replay.came(9, index), "{index}");
        }
        assert!(!replay.came(9, 69) && !replay.came(9, 71) && !replay.came(8, 70));
    }

    #[test]
    fn senders_are_bounded_and_who_sends_often_stays() {
        let mut replay = Replay::default();
        for ssrc in 0..2_000 {
            replay.mark(ssrc, 1);
            replay.mark(1, ssrc);
        }
        assert_eq!(replay.senders.len(), SENDERS_MAX);
        assert!(replay.came(1, 1_990));
    }
}
