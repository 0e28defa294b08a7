//! Sans-IO SFU: rooms, participants, tracks, downlinks. No sockets, clock or threads.
