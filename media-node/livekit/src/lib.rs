//! LiveKit's protocol: tokens, frames, Twirp. No I/O.
