//! A media node is emptied without throwing anyone out, and removed only on proof.
