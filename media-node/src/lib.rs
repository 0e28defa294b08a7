//! The media node's shell: threads, sockets, signalling, control.
