//! The shard's own randomness: a SplitMix64 stream from the seed given at construction.
//!
//! For ids only. Keys, ICE credentials and SSRCs come from the crypto library. Invariant: one
//! seed gives one stream.

/// Characters of ids, without those that are mistaken for one another.
const ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// Random characters of an id, as in LiveKit (`protocol/utils/guid`).
const ID_LENGTH: usize = 12;

/// A deterministic stream.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A new id such as `PA_k2Nd83hsAb2x`.
    pub(crate) fn id(&mut self, prefix: &str) -> String {
        let mut id = String::with_capacity(prefix.len() + ID_LENGTH);
        id.push_str(prefix);
        for _ in 0..ID_LENGTH {
            let at = (self.next() % ALPHABET.len() as u64) as usize;
            id.push(char::from(ALPHABET.get(at).copied().unwrap_or(b'2')));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_stream_of_distinct_ids() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        let id = one.id("PA_");
        assert_eq!(id, two.id("PA_"));
        assert_ne!(id, one.id("PA_"));
        assert_eq!(id.len(), 15);
    }
}
