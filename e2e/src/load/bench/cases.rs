//! The loads that are measured, as in reference figures of other servers.
//!
//! Decides who is in the room and in which bursts packets leave. Invariant: one room, so that one
//! shard carries it.

use super::server::Server;
use crate::load::Settings;

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// 5 voices, 100 listeners
    Audio,
    /// One 720p camera with three layers, 100 viewers
    Video,
    /// 10 people with camera and voice, 40 viewers of a grid
    Meeting,
    /// 50 people, 12 of them with a camera, all of whom see all others in a grid
    Room,
    /// 100 people who do nothing
    Idle,
}

impl Case {
    pub(super) const ALL: [Self; 5] =
        [Self::Audio, Self::Video, Self::Meeting, Self::Room, Self::Idle];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio 5 × 100",
            Self::Video => "video 1 × 100",
            Self::Meeting => "meeting 10 × 40",
            Self::Room => "room of 50, 12 with video",
            Self::Idle => "100 idle",
        }
    }

    /// What the generator does.
    pub(super) fn settings(self, warm_up: u64, duration: u64) -> Settings {
        let (key, secret) = Server::credentials();
        let mut settings = Settings {
            url: Server::url(),
            key,
            secret,
            rooms: 1,
            room_prefix: "bench".to_owned(),
            audio_publishers: 0,
            video_publishers: 0,
            publishers: 0,
            subscribers: 0,
            publishers_subscribe: false,
            no_simulcast: false,
            video_size: None,
            warm_up,
            duration,
            server_pid: None,
            json: false,
        };
        // A tile of a 3 × 3 grid.
        let grid = Some((320, 180));
        match self {
            Self::Audio => (settings.audio_publishers, settings.subscribers) = (5, 100),
            Self::Video => (settings.video_publishers, settings.subscribers) = (1, 100),
            Self::Meeting => {
                (settings.publishers, settings.subscribers) = (10, 40);
                settings.video_size = grid;
            }
            Self::Room => {
                (settings.video_publishers, settings.subscribers) = (12, 38);
                (settings.publishers_subscribe, settings.video_size) = (true, grid);
            }
            Self::Idle => settings.subscribers = 100,
        }
        settings
    }

    /// Receivers of one published packet or frame, and packets of it that each gets.
    pub(super) fn burst(self) -> Option<(u16, u16)> {
        match self {
            Self::Audio => Some((100, 1)),
            // A frame of the largest layer.
            Self::Video => Some((100, 7)),
            Self::Meeting => Some((40, 1)),
            Self::Room => Some((49, 1)),
            Self::Idle => None,
        }
    }
}
