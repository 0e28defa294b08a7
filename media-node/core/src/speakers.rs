//! Who is speaking, from the audio-level header extension (RFC 6464).
//!
//! Decides activity over windows of 400 ms with LiveKit's thresholds (`pkg/sfu/audio`,
//! `audioUpdateWorker` in `pkg/rtc/room.go`). It does not decode audio. Invariant: a change is
//! reported once; what was reported and what is held agree.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Length of an observed window.
pub const WINDOW: Duration = Duration::from_millis(400);
/// A frame at this level or louder counts as speech, in −dBov.
pub const LEVEL_ACTIVE_DBOV: u8 = 35;
/// A window counts as speech when this share of it does, in percent.
pub const ACTIVE_PERCENT: u32 = 40;
/// Weight of a new window: an average over two.
const SMOOTHING: f32 = 2.0 / 3.0;
/// Levels are told in eighths, so that small changes cost no message.
const LEVEL_STEPS: f32 = 8.0;
/// Audio tracks heard at once in a room; more are not counted.
pub const SPEAKERS_MAX: usize = 4096;

/// A participant's speaking changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeakerChange {
    /// As given to [`SpeakerDetector::on_level`].
    pub speaker: u64,
    /// 0 to 1.
    pub level: f32,
    pub active: bool,
}

#[derive(Debug, Clone, Copy)]
struct Voice {
    loudest_dbov: u8,
    active: Duration,
    observed: Duration,
    smoothed: f32,
    last_heard: Instant,
    /// Level last told; 0 is silent.
    told: f32,
}

/// The speakers of one room.
#[derive(Debug, Clone, Default)]
pub struct SpeakerDetector {
    voices: BTreeMap<u64, Voice>,
    next: Option<Instant>,
}

/// The linear level of −`dbov` decibels.
fn linear(dbov: f32) -> f32 {
    10_f32.powf(-dbov / 20.0)
}

impl SpeakerDetector {
    /// A frame of `duration` at −`level_dbov` (0 loudest, 127 silence).
    pub fn on_level(&mut self, now: Instant, speaker: u64, level_dbov: u8, duration: Duration) {
        if self.voices.len() >= SPEAKERS_MAX && !self.voices.contains_key(&speaker) {
            return;
        }
        self.next.get_or_insert(now + WINDOW);
        let voice = self.voices.entry(speaker).or_insert_with(|| Voice::new(now));
        voice.observe(now, level_dbov, duration.min(WINDOW));
    }

    /// The participant left or muted: silent at once, told at the next window.
    pub fn remove(&mut self, speaker: u64) {
        if let Some(voice) = self.voices.get_mut(&speaker) {
            voice.reset(0.0);
        }
    }

    /// When to call [`Self::on_tick`] next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        self.next
    }

    /// At the end of a window: what changed since the last, the loudest first. Empty in between.
    pub fn on_tick(&mut self, now: Instant) -> Vec<SpeakerChange> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (speaker, voice) in &mut self.voices {
            if now.saturating_duration_since(voice.last_heard) >= WINDOW * 2 {
                voice.reset(0.0);
            }
            let level = voice.level();
            if level != voice.told {
                voice.told = level;
                changes.push(SpeakerChange { speaker: *speaker, level, active: level > 0.0 });
            }
        }
        self.voices.retain(|_, voice| {
            voice.told > 0.0 || now.saturating_duration_since(voice.last_heard) < WINDOW * 2
        });
        self.next = (!self.voices.is_empty()).then(|| now + WINDOW);
        changes.sort_by(|a, b| b.level.total_cmp(&a.level).then(a.speaker.cmp(&b.speaker)));
        changes
    }

    /// Everyone active now, the loudest first, for a participant that joins.
    #[must_use]
    pub fn active(&self) -> Vec<SpeakerChange> {
        let mut active: Vec<_> = self
            .voices
            .iter()
            .filter(|(_, voice)| voice.told > 0.0)
            .map(|(speaker, voice)| SpeakerChange {
                speaker: *speaker,
                level: voice.told,
                active: true,
            })
            .collect();
        active.sort_by(|a, b| b.level.total_cmp(&a.level).then(a.speaker.cmp(&b.speaker)));
        active
    }
}

impl Voice {
    fn new(now: Instant) -> Self {
        Self {
            loudest_dbov: 127,
            active: Duration::ZERO,
            observed: Duration::ZERO,
            smoothed: 0.0,
            last_heard: now,
            told: 0.0,
        }
    }

    fn observe(&mut self, now: Instant, level_dbov: u8, duration: Duration) {
        self.last_heard = now;
        self.observed += duration;
        if level_dbov <= LEVEL_ACTIVE_DBOV {
            self.active += duration;
            self.loudest_dbov = self.loudest_dbov.min(level_dbov);
        }
        if self.observed < WINDOW {
            return;
        }
        let mut smoothed = 0.0;
        if self.active >= WINDOW * ACTIVE_PERCENT / 100 {
            let share = self.active.as_secs_f32() / WINDOW.as_secs_f32();
            let level = linear(f32::from(self.loudest_dbov) - 20.0 * share.log10());
            smoothed = self.smoothed + (level - self.smoothed) * SMOOTHING;
        }
        self.reset(smoothed);
    }

    fn reset(&mut self, smoothed: f32) {
        self.smoothed = smoothed;
        self.loudest_dbov = 127;
        self.active = Duration::ZERO;
        self.observed = Duration::ZERO;
    }

    fn level(&self) -> f32 {
        if self.smoothed < linear(f32::from(LEVEL_ACTIVE_DBOV)) {
            return 0.0;
        }
        ((self.smoothed * LEVEL_STEPS).ceil() / LEVEL_STEPS).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(20);

    fn speak(detector: &mut SpeakerDetector, from: Instant, level: impl Fn(u32) -> u8) -> Instant {
        for n in 0..50 {
            detector.on_level(from + FRAME * n, 1, level(n), FRAME);
        }
        from + FRAME * 50
    }

    #[test]
    fn speech_is_told_once_and_its_end_as_well() {
        let start = Instant::now();
        let mut detector = SpeakerDetector::default();
        let at = speak(&mut detector, start, |_| 10);
        let changes = detector.on_tick(at);
        assert_eq!(changes.len(), 1);
        assert!(changes[0].active && changes[0].level > 0.3);
        assert_eq!(detector.active(), changes);
        let at = speak(&mut detector, at, |_| 10);
        let _settled = detector.on_tick(at);
        let at = speak(&mut detector, at, |_| 10);
        assert_eq!(detector.on_tick(at), []);
        let later = at + Duration::from_secs(1);
        let changes = detector.on_tick(later);
        assert_eq!(changes, [SpeakerChange { speaker: 1, level: 0.0, active: false }]);
        assert_eq!(detector.next_tick(), None);
    }

    #[test]
    fn a_cough_is_not_speech_and_neither_is_a_murmur() {
        let mut detector = SpeakerDetector::default();
        let at = speak(&mut detector, Instant::now(), |n| if n % 4 == 0 { 5 } else { 127 });
        assert_eq!(detector.on_tick(at), []);
        let at = speak(&mut detector, at, |_| 40);
        assert_eq!(detector.on_tick(at), []);
    }

    #[test]
    fn who_leaves_is_silent_at_the_next_window() {
        let mut detector = SpeakerDetector::default();
        let at = speak(&mut detector, Instant::now(), |_| 0);
        assert_eq!(detector.on_tick(at).len(), 1);
        detector.remove(1);
        let changes = detector.on_tick(at + WINDOW);
        assert!(changes.iter().any(|change| change.speaker == 1 && !change.active));
    }
}
