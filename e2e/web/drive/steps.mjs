// What two people do in a meeting, step by step, and what must be seen of it on the other side. Each
// step returns the figures it measured, or throws with what did not happen.

import { pause } from './browser.mjs';
import { seenAndHeard } from './person.mjs';

const FRAMES_WANTED = 30;
/** What a resumed signalling connection may cost in picture or sound. */
const GAP_MS_MAX = 200;
const WATCH_MS = 3000;
const CALM_WITHIN_MS = 20_000;
const AES_GCM = /GCM/;

const ms = (since) => Date.now() - since;

/** Pictures and sound of `other` arrive at `one`. */
async function seesAndHears(one, other, frames = FRAMES_WANTED) {
  const identity = await other.identity();
  const before = seenAndHeard(await one.stats(), identity);
  const begin = Date.now();
  const now = await one.until(`pictures and sound of ${other.name}`, async () => {
    const got = seenAndHeard(await one.stats(), identity);
    // Counters begin again with a new track.
    const base = got.frames < before.frames ? { frames: 0, energy: 0 } : before;
    return got.frames - base.frames >= frames && got.energy > base.energy ? got : null;
  }, 30_000);
  return { ...now, energy: Number(now.energy.toFixed(4)), afterMs: ms(begin) };
}

export async function meet({ a, b }) {
  const [inA, inB] = [await a.join(), await b.join()];
  const [atA, atB] = await Promise.all([seesAndHears(a, b), seesAndHears(b, a)]);
  return { joinMs: [inA, inB], atA, atB };
}

export async function cipher({ a, b }) {
  const all = [];
  for (const person of [a, b]) {
    const { paths } = await person.stats();
    const used = paths.filter((path) => path.state === 'connected');
    if (used.length === 0) throw new Error(`${person.name}: no connected transport`);
    for (const path of used) {
      const { srtpCipher, protocol, local, remote } = path;
      all.push({ who: person.name, of: path.of, srtpCipher, protocol, local, remote });
      if (protocol !== person.carrier) {
        throw new Error(`${person.name}: ${path.of} goes over ${protocol}: ${JSON.stringify(path)}`);
      }
      // Firefox ESR may not say it; Chromium always does.
      if (srtpCipher === undefined && person.engine !== 'chromium') continue;
      if (!AES_GCM.test(srtpCipher ?? '')) {
        throw new Error(`${person.name}: ${path.of} is secured with ${srtpCipher}, not AES-GCM`);
      }
    }
  }
  return all;
}

export async function speaking({ a, b }) {
  const identity = await a.identity();
  const begin = Date.now();
  const tile = `.tile[data-identity="${identity}"].speaking`;
  await b.until(`${a.name} shown as speaking`, () => b.page.$(tile), 20_000);
  return { afterMs: ms(begin) };
}

export async function quality({ a, b }) {
  const identity = await a.identity();
  const tile = `.tile[data-identity="${identity}"][data-source="camera"]`;
  const shown = () => b.page.$eval(tile, (element) => element.dataset.quality);
  const said = async () => {
    const now = await shown();
    return now !== 'unknown' ? now : null;
  };
  return { quality: await b.until('the connection quality', said, 20_000) };
}

/** Microphone and camera come in one stream where the browser tells their tracks apart. */
export async function lipSync({ a, b }) {
  const all = [];
  for (const [one, other] of [[a, b], [b, a]]) {
    const identity = await other.identity();
    const streams = await one.page.evaluate((who) => {
      const { room } = window.__hemicycle;
      const them = room.getParticipantByIdentity(who);
      const of = (source) => them.getTrackPublication(source)?.track?.mediaStream;
      const [microphone, camera] = [of('microphone'), of('camera')];
      return { ids: [microphone?.id, camera?.id], tracks: camera?.getTracks().length };
    }, identity);
    all.push({ at: one.engine, ...streams });
    const same = streams.ids[0] !== undefined && streams.ids[0] === streams.ids[1];
    const wanted = one.engine === 'chromium';
    if (same !== wanted || streams.tracks !== (wanted ? 2 : 1)) {
      throw new Error(`streams are ${wanted ? 'not ' : ''}shared: ${JSON.stringify(all)}`);
    }
  }
  return all;
}

export async function mute({ a, b }) {
  const identity = await a.identity();
  const tile = `.tile[data-identity="${identity}"][data-source="camera"]`;
  await a.press('mic');
  let begin = Date.now();
  await b.until(`${a.name} shown as muted`, () => b.page.$(`${tile}.muted`), 5000);
  const mutedMs = ms(begin);
  // What is on its way may still arrive; then nothing may.
  await pause(700);
  const before = await b.received(identity, 'microphone');
  await pause(1000);
  const after = await b.received(identity, 'microphone');
  const heard = (after?.audioEnergy ?? 0) - (before?.audioEnergy ?? 0);
  if (heard > 1e-4) throw new Error(`${a.name} is heard while muted (energy ${heard})`);
  await a.press('mic');
  begin = Date.now();
  await b.until(`${a.name} shown as unmuted`, () => b.page.$(`${tile}:not(.muted)`), 5000);
  const unmutedMs = ms(begin);
  const again = await seesAndHears(b, a, 5);
  return { mutedMs, energyWhileMuted: heard, unmutedMs, heardAfterMs: again.afterMs };
}

export async function camera({ a, b }) {
  const identity = await a.identity();
  const tile = `.tile[data-identity="${identity}"][data-source="camera"]`;
  let begin = Date.now();
  await a.press('camera');
  await b.until('the picture gone', () => b.page.$(`${tile}:not(.has-picture)`), 5000);
  const offMs = ms(begin);
  begin = Date.now();
  await a.press('camera');
  await b.until('the picture back', () => b.page.$(`${tile}.has-picture`), 10_000);
  await seesAndHears(b, a, 5);
  return { offMs, onMs: ms(begin) };
}

export async function screen({ a, b }) {
  const identity = await a.identity();
  const begin = Date.now();
  await a.press('share');
  const got = await b.until('the shared screen', async () => {
    const received = await b.received(identity, 'screen_share');
    return (received?.framesDecoded ?? 0) >= 5 ? received : null;
  }, 20_000);
  const seenMs = ms(begin);
  const camera = await seesAndHears(b, a, 5);
  await b.screenshot(b.shots('screen'));
  await a.press('share');
  const gone = `.tile[data-identity="${identity}"][data-source="screen_share"]`;
  await b.until('the shared screen gone', async () => !(await b.page.$(gone)), 10_000);
  return { seenMs, size: `${got.width}x${got.height}`, cameraFrames: camera.frames };
}

function askQuality(person, identity, level) {
  return person.page.evaluate(
    (who, quality) => {
      const { room } = window.__hemicycle;
      const publication = room.remoteParticipants.get(who).getTrackPublication('camera');
      publication.setVideoQuality(quality);
    },
    identity,
    level,
  );
}

export async function layers({ a, b }) {
  const identity = await a.identity();
  const wide = async () => (await b.received(identity, 'camera'))?.width ?? 0;
  const change = async (what, level, holds) => {
    const begin = Date.now();
    await askQuality(b, identity, level);
    const width = await b.until(what, async () => {
      const now = await wide();
      return holds(now) ? now : null;
    }, 30_000);
    return { width, afterMs: ms(begin) };
  };
  // VideoQuality: LOW 0, MEDIUM 1, HIGH 2. The encoders need a moment to reach the highest.
  const high = await change('a layer above 320', 2, (w) => w > 320);
  const low = await change('the lowest layer', 0, (w) => w > 0 && w <= 320);
  const up = await change('a higher layer again', 2, (w) => w > low.width);
  const frames = await seesAndHears(b, a, 5);
  return { high, low, up, frames: frames.frames };
}

async function write(from, to, text) {
  if (!(await from.page.$('#panel[data-panel="chat"]:not([hidden])'))) await from.press('chat');
  await from.page.waitForSelector('#message', { visible: true });
  await from.page.type('#message', text);
  await from.page.keyboard.press('Enter');
  const begin = Date.now();
  await to.until(`the message “${text}”`, async () => {
    const lines = await to.page.$$eval('.messages li p', (all) => all.map((p) => p.textContent));
    return lines.includes(text);
  }, 10_000);
  return ms(begin);
}

export async function chat({ a, b }) {
  const there = await write(a, b, 'Bonjour à tous – ça marche ?');
  const back = await write(b, a, 'Parfaitement. Très net. 👍');
  await a.screenshot(a.shots('chat'));
  return { thereMs: there, backMs: back };
}

export async function leaveAndRejoin({ a, b }) {
  const identity = await a.identity();
  let begin = Date.now();
  await a.press('leave');
  await a.page.waitForSelector('.ending[data-reason="leftText"]', { timeout: 10_000 });
  const gone = `.tile[data-identity="${identity}"]`;
  await b.until(`${a.name} gone`, async () => !(await b.page.$(gone)), 10_000);
  const goneMs = ms(begin);
  await a.page.click('#rejoin');
  const joinMs = await a.join();
  begin = Date.now();
  await Promise.all([seesAndHears(b, a), seesAndHears(a, b)]);
  return { goneMs, joinMs, metMs: ms(begin) };
}

/** The longest silences of every track while `act` goes on. */
async function watchGaps(people, act) {
  await Promise.all(people.map((p) => p.page.evaluate(() => window.__hemicycle.gaps.start())));
  await act();
  const read = () => window.__hemicycle.gaps.read();
  const gaps = await Promise.all(people.map((p) => p.page.evaluate(read)));
  return gaps.flatMap((all, i) => all.map(({ kind, longestMs, seen, stallMs }) => (
    { at: people[i].name, kind, longestMs, seen, stallMs: Math.round(stallMs) })));
}

/**
 * What this machine does without a cut: browsers that wait for a processor show gaps that no network
 * made. Waits for a calm moment, within a bound, and says how calm it was: nothing smaller can be seen.
 */
async function awaitCalm(people) {
  const end = Date.now() + CALM_WITHIN_MS;
  for (;;) {
    const gaps = await watchGaps(people, () => pause(WATCH_MS));
    const restless = gaps.some((gap) => gap.longestMs > GAP_MS_MAX / 2);
    if (!restless || Date.now() > end) return gaps;
  }
}

/** The wire of signalling is cut for one, media is not: a resume must cost nothing that is heard. */
export async function cutAndResume({ a, b, line }) {
  const people = [a, b];
  const before = await Promise.all(people.map((p) => p.page.evaluate(
    () => window.__hemicycle.room.localParticipant.sid)));
  await a.page.evaluate(() => {
    window.__resumed = { signal: 0, full: 0, done: 0 };
    window.__hemicycle.room
      .on('signalReconnecting', () => (window.__resumed.signal += 1))
      .on('reconnecting', () => (window.__resumed.full += 1))
      .on('reconnected', () => (window.__resumed.done += 1));
  });
  const calm = await awaitCalm(people);
  let resumed;
  let resumedMs = 0;
  const figures = await watchGaps(people, async () => {
    await pause(500);
    const begin = Date.now();
    if (line.cut() === 0) throw new Error('no connection went through the line that was cut');
    resumed = await a.until('the connection resumed', () => a.page.evaluate(
      () => (window.__resumed.done > 0 ? window.__resumed : null)), 20_000);
    resumedMs = ms(begin);
    await pause(WATCH_MS);
  });
  const after = await Promise.all(people.map((p) => p.page.evaluate(
    () => window.__hemicycle.room.localParticipant.sid)));
  if (before.join() !== after.join()) throw new Error('a participant came back as a new one');
  if (resumed.full > 0) throw new Error('the connection was made anew, not resumed');
  for (const figure of figures) {
    const same = calm.find((c) => c.at === figure.at && c.kind === figure.kind);
    figure.calmMs = same?.longestMs ?? 0;
  }
  const long = figures.filter((g) => g.longestMs > Math.max(GAP_MS_MAX, 2 * g.calmMs) || g.seen === 0);
  if (figures.length === 0) throw new Error('no track was watched');
  if (long.length > 0) throw new Error(`a gap over ${GAP_MS_MAX} ms: ${JSON.stringify(figures)}`);
  await write(a, b, 'still here');
  return { resumedMs, gaps: figures };
}

/** In this order; a step that fails does not stop the others unless it is the first. */
export const STEPS = [
  ['meet', 'see and hear each other', meet],
  ['cipher', 'media is secured, by the right way', cipher],
  ['speaking', 'who speaks is shown', speaking],
  ['quality', 'connection quality is shown', quality],
  ['lip-sync', 'voice and picture in one stream', lipSync],
  ['mute', 'mute and unmute', mute],
  ['camera', 'camera off and on', camera],
  ['screen', 'share a screen', screen],
  ['layers', 'layers follow setVideoQuality', layers],
  ['chat', 'messages both ways', chat],
  ['rejoin', 'leave and come back', leaveAndRejoin],
  ['resume', 'signalling cut and resumed', cutAndResume],
];
