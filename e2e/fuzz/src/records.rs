//! Splits an input into records, so that one input is a sequence of different things that happen.
//!
//! A record is a kind, a length of two bytes (big-endian) and that many bytes; the last may be cut.
//! Invariant: every input is some sequence of records.

/// One thing that happens.
pub struct Record<'a> {
    pub kind: u8,
    pub body: &'a [u8],
}

/// The records of `data`, at most `most`.
pub fn records(data: &[u8], most: usize) -> impl Iterator<Item = Record<'_>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let [kind, high, low, tail @ ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (body, after) = tail.split_at(length);
        rest = after;
        Some(Record { kind: *kind, body })
    })
    .take(most)
}

/// Appends a record, for seeds.
pub fn append(data: &mut Vec<u8>, kind: u8, body: &[u8]) {
    data.push(kind);
    data.extend_from_slice(&u16::try_from(body.len()).expect("seeds are short").to_be_bytes());
    data.extend_from_slice(body);
}

/// Takes one byte off the front; 0 when there is none.
pub fn byte(data: &mut &[u8]) -> u8 {
    let Some((first, rest)) = data.split_first() else { return 0 };
    *data = rest;
    *first
}

/// Takes two bytes off the front, big-endian.
pub fn word(data: &mut &[u8]) -> u16 {
    u16::from_be_bytes([byte(data), byte(data)])
}
