// Turns the browser's own statistics (getStats) into one small, flat account of what is sent and
// received. Pure: takes reports, returns an account; rates come from the account before it. Missing
// figures stay absent, because Chromium and Firefox do not measure the same.

type Stat = Record<string, unknown>;
/** What of an RTCStatsReport is needed: to look at each entry. */
export interface Report {
  forEach(look: (stat: Stat) => void): void;
}

/** One encoding that is sent. */
export interface Sent {
  track: string;
  source: string;
  kind: string;
  rid?: string;
  codec?: string;
  active?: boolean;
  width?: number;
  height?: number;
  framesPerSecond?: number;
  framesEncoded?: number;
  bytes: number;
  packets: number;
  bitrateBps?: number;
  limitedBy?: string;
}

/** One track that is received. */
export interface Received {
  participant: string;
  track: string;
  source: string;
  kind: string;
  codec?: string;
  width?: number;
  height?: number;
  framesPerSecond?: number;
  framesDecoded?: number;
  freezes?: number;
  freezeSeconds?: number;
  audioEnergy?: number;
  audioSeconds?: number;
  concealedSamples?: number;
  bytes: number;
  packets: number;
  lost: number;
  retransmitted?: number;
  nacks?: number;
  keyframeRequests?: number;
  jitterMs?: number;
  bitrateBps?: number;
}

/** One transport: the way packets take and how they are kept secret. */
export interface Path {
  of: 'publisher' | 'subscriber';
  state: string;
  protocol?: string;
  local?: string;
  remote?: string;
  roundTripMs?: number;
  availableBps?: number;
  srtpCipher?: string;
  dtlsCipher?: string;
}

export interface Account {
  identity: string;
  room: string;
  state: string;
  /** Milliseconds since 1970, for rates between two accounts. */
  atMs: number;
  paths: Path[];
  sent: Sent[];
  received: Received[];
}

const number = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) ? value : undefined;
const text = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : undefined;

/** Leaves out what is not known, so that an account reads well as JSON. */
function known<T extends object>(values: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(values).filter(([, v]) => v !== undefined)) as T;
}

function index(report: Report): Map<string, Stat> {
  const all = new Map<string, Stat>();
  report.forEach((stat) => all.set(String(stat['id']), stat));
  return all;
}

function codecOf(stats: Map<string, Stat>, stat: Stat): string | undefined {
  const mime = text(stats.get(String(stat['codecId']))?.['mimeType']);
  return mime?.split('/')[1];
}

/** What a sender sends, one entry per encoding. */
export function readSent(report: Report, track: string, source: string): Sent[] {
  const stats = index(report);
  const all: Sent[] = [];
  for (const stat of stats.values()) {
    if (stat['type'] !== 'outbound-rtp') continue;
    all.push(
      known<Sent>({
        track,
        source,
        kind: text(stat['kind']) ?? '',
        rid: text(stat['rid']),
        codec: codecOf(stats, stat),
        active: typeof stat['active'] === 'boolean' ? stat['active'] : undefined,
        width: number(stat['frameWidth']),
        height: number(stat['frameHeight']),
        framesPerSecond: number(stat['framesPerSecond']),
        framesEncoded: number(stat['framesEncoded']),
        bytes: number(stat['bytesSent']) ?? 0,
        packets: number(stat['packetsSent']) ?? 0,
        bitrateBps: undefined,
        limitedBy: text(stat['qualityLimitationReason']),
      }),
    );
  }
  return all;
}

/** What a receiver receives; nothing where it has not received anything yet. */
export function readReceived(
  report: Report,
  participant: string,
  track: string,
  source: string,
): Received | undefined {
  const stats = index(report);
  const stat = [...stats.values()].find((entry) => entry['type'] === 'inbound-rtp');
  if (stat === undefined) return undefined;
  const jitter = number(stat['jitter']);
  return known<Received>({
    participant,
    track,
    source,
    kind: text(stat['kind']) ?? '',
    codec: codecOf(stats, stat),
    width: number(stat['frameWidth']),
    height: number(stat['frameHeight']),
    framesPerSecond: number(stat['framesPerSecond']),
    framesDecoded: number(stat['framesDecoded']),
    freezes: number(stat['freezeCount']),
    freezeSeconds: number(stat['totalFreezesDuration']),
    audioEnergy: number(stat['totalAudioEnergy']),
    audioSeconds: number(stat['totalSamplesDuration']),
    concealedSamples: number(stat['concealedSamples']),
    bytes: number(stat['bytesReceived']) ?? 0,
    packets: number(stat['packetsReceived']) ?? 0,
    lost: number(stat['packetsLost']) ?? 0,
    retransmitted: number(stat['retransmittedPacketsReceived']),
    nacks: number(stat['nackCount']),
    keyframeRequests: number(stat['pliCount']),
    jitterMs: jitter === undefined ? undefined : Math.round(jitter * 1e4) / 10,
    bitrateBps: undefined,
  });
}

function address(candidate: Stat | undefined): string | undefined {
  if (candidate === undefined) return undefined;
  const host = text(candidate['address']) ?? text(candidate['ip']) ?? '?';
  const kind = text(candidate['candidateType']) ?? '?';
  return `${host.includes(':') ? `[${host}]` : host}:${String(candidate['port'])} ${kind}`;
}

/** The way one peer connection's packets take. */
export function readPath(report: Report, of: Path['of'], state: string): Path {
  const stats = index(report);
  const entries = [...stats.values()];
  const transport = entries.find((stat) => stat['type'] === 'transport');
  const chosen = stats.get(String(transport?.['selectedCandidatePairId']));
  // Firefox has no transport entry; there the pair in use says so itself.
  const inUse = (stat: Stat): boolean =>
    stat['type'] === 'candidate-pair' &&
    (stat['selected'] === true || (stat['nominated'] === true && stat['state'] === 'succeeded'));
  const pair = chosen ?? entries.find(inUse);
  const local = stats.get(String(pair?.['localCandidateId']));
  const remote = stats.get(String(pair?.['remoteCandidateId']));
  const roundTrip = number(pair?.['currentRoundTripTime']);
  return known<Path>({
    of,
    state,
    protocol: text(local?.['protocol']),
    local: address(local),
    remote: address(remote),
    roundTripMs: roundTrip === undefined ? undefined : Math.round(roundTrip * 1e4) / 10,
    availableBps: number(pair?.['availableOutgoingBitrate']),
    srtpCipher: text(transport?.['srtpCipher']),
    dtlsCipher: text(transport?.['dtlsCipher']),
  });
}

interface Counted {
  track: string;
  rid?: string;
  bytes: number;
  bitrateBps?: number;
}

function rate(now: Counted[], before: Counted[], elapsedMs: number): void {
  for (const entry of now) {
    const earlier = before.find((b) => b.track === entry.track && b.rid === entry.rid);
    if (earlier !== undefined && elapsedMs > 0 && entry.bytes >= earlier.bytes) {
      entry.bitrateBps = Math.round(((entry.bytes - earlier.bytes) * 8000) / elapsedMs);
    }
  }
}

/** Adds bit rates to `now`, from the bytes since `before`. */
export function addRates(now: Account, before: Account | undefined): Account {
  if (before !== undefined) {
    const elapsed = now.atMs - before.atMs;
    rate(now.sent, before.sent, elapsed);
    rate(now.received, before.received, elapsed);
  }
  return now;
}

/** `1.2 Mbit/s`, as people say it. */
export function bitrateText(bps: number | undefined): string {
  if (bps === undefined) return '–';
  return bps >= 1e6 ? `${(bps / 1e6).toFixed(1)} Mbit/s` : `${Math.round(bps / 1000)} kbit/s`;
}
