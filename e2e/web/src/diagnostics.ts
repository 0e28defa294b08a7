// `window.__hemicycle`: what the page measures, for the details panel and for programs that drive the
// page. A documented hook and not an interface for applications. It reads; only `room` can act.
//
//   room      the livekit-client Room, or null outside a meeting
//   stats()   an Account (measure.ts) of this moment
//   gaps      start() begins to watch every received track, read() says the longest silence of each

import type { LocalTrack, RemoteTrack, Room } from 'livekit-client';

import { addRates, readPath, readReceived, readSent } from './measure';
import type { Account, Path, Received, Sent } from './measure';

/** How often an audio track is asked for its newest packet. */
const LOOK_MS = 10;
/** A gap is not believed where the page itself did not run for this long. */
const STALL_MS = 60;

/** The longest time one track brought nothing. */
export interface Gap {
  participant: string;
  track: string;
  kind: string;
  longestMs: number;
  /** Frames or packets seen: zero means that nothing came at all. */
  seen: number;
  /** The longest time in which the page itself did not run, which hides what happened then. */
  stallMs: number;
}

export interface Hook {
  room: Room | null;
  stats(): Promise<Account | null>;
  gaps: { start(): void; read(): Gap[] };
}

declare global {
  interface Window {
    __hemicycle?: Hook;
  }
}

interface Watch {
  gap: Gap;
  /** When the page last saw something new, on its own clock. */
  seenAt: number;
  stop(): void;
}

function remoteTracks(room: Room): { participant: string; source: string; track: RemoteTrack }[] {
  const all: { participant: string; source: string; track: RemoteTrack }[] = [];
  for (const participant of room.remoteParticipants.values()) {
    for (const publication of participant.trackPublications.values()) {
      if (publication.track !== undefined) {
        const track = publication.track as RemoteTrack;
        all.push({ participant: participant.identity, source: publication.source, track });
      }
    }
  }
  return all;
}

/**
 * Watches a video element's frames. Takes when the last packet of a frame came, where the browser says
 * it, because the page's own pauses say nothing of the network; frames shown while the page did not
 * run share the time between them.
 */
function watchVideo(gap: Gap, track: RemoteTrack): Watch {
  const video = track.attachedElements[0] as HTMLVideoElement | undefined;
  const watch: Watch = { gap, seenAt: performance.now(), stop: () => undefined };
  if (video === undefined || !('requestVideoFrameCallback' in video)) return watch;
  let handle = 0;
  let last: { at: number; count: number } | undefined;
  const shown = (now: number, frame: VideoFrameCallbackMetadata): void => {
    const newest = { at: frame.receiveTime ?? now, count: frame.presentedFrames };
    if (last !== undefined) {
      const frames = Math.max(1, newest.count - last.count);
      gap.longestMs = Math.max(gap.longestMs, (newest.at - last.at) / frames);
      gap.stallMs = Math.max(gap.stallMs, frames > 1 ? now - watch.seenAt : 0);
    }
    gap.seen += 1;
    last = newest;
    watch.seenAt = now;
    handle = video.requestVideoFrameCallback(shown);
  };
  handle = video.requestVideoFrameCallback(shown);
  watch.stop = () => video.cancelVideoFrameCallback(handle);
  return watch;
}

/** Watches when an audio receiver last heard of its source. */
function watchAudio(gap: Gap, track: RemoteTrack): Watch {
  const watch: Watch = { gap, seenAt: performance.now(), stop: () => undefined };
  let looked = watch.seenAt;
  let last = 0;
  // The page is told of what came while it stood still some looks after it goes on.
  let blind = false;
  const timer = window.setInterval(() => {
    const now = performance.now();
    const stalled = now - looked;
    looked = now;
    gap.stallMs = Math.max(gap.stallMs, stalled);
    blind ||= stalled >= STALL_MS;
    const newest = track.receiver?.getSynchronizationSources()[0]?.timestamp;
    if (newest === undefined || newest === last) return;
    if (last !== 0 && !blind) gap.longestMs = Math.max(gap.longestMs, newest - last);
    gap.seen += 1;
    blind = false;
    last = newest;
    watch.seenAt = now;
  }, LOOK_MS);
  watch.stop = () => window.clearInterval(timer);
  return watch;
}

async function paths(room: Room): Promise<Path[]> {
  const transports = room.engine.pcManager;
  if (transports === undefined) return [];
  const all: Path[] = [];
  for (const of of ['publisher', 'subscriber'] as const) {
    const transport = transports[of];
    if (transport === undefined) continue;
    const report = await transport.getStats();
    all.push(readPath(report as never, of, transport.getConnectionState()));
  }
  return all;
}

async function account(room: Room): Promise<Account> {
  const sent: Sent[] = [];
  for (const publication of room.localParticipant.trackPublications.values()) {
    const report = await (publication.track as LocalTrack | undefined)?.getRTCStatsReport();
    if (report) sent.push(...readSent(report as never, publication.trackSid, publication.source));
  }
  const received: Received[] = [];
  for (const { participant, source, track } of remoteTracks(room)) {
    const report = await track.getRTCStatsReport();
    if (!report) continue;
    const read = readReceived(report as never, participant, track.sid ?? '', source);
    if (read !== undefined) received.push(read);
  }
  return {
    identity: room.localParticipant.identity,
    room: room.name,
    state: room.state,
    atMs: Date.now(),
    paths: await paths(room),
    sent,
    received,
  };
}

/** Puts the hook on the window; `room` changes with each meeting. */
export function installHook(): Hook {
  let before: Account | undefined;
  let watches: Watch[] = [];
  const hook: Hook = {
    room: null,
    async stats() {
      if (hook.room === null) return null;
      const now = addRates(await account(hook.room), before);
      // Rates over less than half a second say nothing.
      if (before === undefined || now.atMs - before.atMs > 500) before = now;
      return now;
    },
    gaps: {
      start() {
        for (const watch of watches) watch.stop();
        watches = [];
        if (hook.room === null) return;
        for (const { participant, track } of remoteTracks(hook.room)) {
          const { kind } = track;
          const gap = { participant, track: track.sid ?? '', kind, longestMs: 0, seen: 0, stallMs: 0 };
          watches.push(kind === 'video' ? watchVideo(gap, track) : watchAudio(gap, track));
        }
      },
      read() {
        const now = performance.now();
        return watches.map(({ gap, seenAt }) => {
          // A track that fell silent for good has a gap that nothing later ends.
          return { ...gap, longestMs: Math.round(Math.max(gap.longestMs, now - seenAt)) };
        });
      },
    },
  };
  window.__hemicycle = hook;
  return hook;
}
