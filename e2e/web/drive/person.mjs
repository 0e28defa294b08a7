// A person in a browser on the meeting page: opens the link, presses the buttons that people press,
// and reads what the page measures. Judges nothing; waits on conditions and never on time alone.

import { launch, pause } from './browser.mjs';

const LOOK_MS = 200;
/** A busy machine's browsers are slow to start; a meeting is not this slow. */
const JOIN_MS = 45_000;

/** A screen to share where a headless browser has none: a canvas that changes. */
function standInForScreen() {
  navigator.mediaDevices.getDisplayMedia = async () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 1280, height: 720 });
    const pen = canvas.getContext('2d');
    let at = 0;
    const draw = () => {
      pen.fillStyle = `hsl(${at % 360} 60% 40%)`;
      pen.fillRect(0, 0, 1280, 720);
      pen.fillStyle = '#fff';
      pen.font = '120px sans-serif';
      pen.fillText(`screen ${at}`, 160, 400);
      at += 1;
    };
    draw();
    setInterval(draw, 100);
    return canvas.captureStream(10);
  };
}

export class Person {
  /** Opens `link` in a fresh browser. */
  static async open({ engine, carrier, link, name, also = [] }) {
    const window = await launch(engine, [link, ...also], carrier);
    const page = await window.browser.newPage();
    const person = new Person(window, page, name ?? engine, link);
    page.on('console', (message) => void person.hear(message));
    page.on('pageerror', (error) => person.note(`page error: ${error.message ?? error}`));
    if (engine === 'firefox') await page.evaluateOnNewDocument(standInForScreen);
    await page.goto(link, { waitUntil: 'load', timeout: JOIN_MS });
    return person;
  }

  constructor(window, page, name, link) {
    Object.assign(this, { window, page, name, link });
    this.engine = window.engine;
    this.carrier = window.carrier;
    /** The newest lines of the browser's console. */
    this.console = [];
  }

  /** A line of the console, with its objects written out: that is where the SDK says what failed. */
  async hear(message) {
    const values = await Promise.all(
      message.args().map((handle) => handle.jsonValue().catch(() => handle.toString())),
    );
    const words = values.map((value) => (typeof value === 'string' ? value : JSON.stringify(value)));
    this.note(`${message.type()}: ${words.join(' ') || message.text()}`.slice(0, 600));
  }

  note(line) {
    this.console.push(`${new Date().toISOString().slice(11, 23)} ${line}`);
    if (this.console.length > 400) this.console.shift();
  }

  /** Presses Join and waits until the room is there; how long that took, in milliseconds. */
  async join() {
    await this.page.waitForSelector('#join:not([disabled])', { timeout: JOIN_MS });
    // People look at themselves before they enter; the picture is there then.
    const seen = () => this.page.$eval('.preview video', (v) => v.videoWidth > 0);
    await this.until('its own picture', seen, 15_000);
    const begin = Date.now();
    await this.page.click('#join');
    await this.until(
      'the room',
      async () => {
        const ended = await this.page.$('.ending');
        if (ended) throw new Error(`did not get in: ${await this.text('.ending .reason')}`);
        return this.page.evaluate(() => window.__hemicycle.room?.state === 'connected');
      },
      JOIN_MS,
    );
    return Date.now() - begin;
  }

  /** Presses a control of the bar. */
  async press(act) {
    await this.page.click(`#control-${act}`);
  }

  async text(selector) {
    return this.page.$eval(selector, (element) => element.textContent ?? '');
  }

  /** What the page measures (`src/measure.ts`, Account). */
  async stats() {
    return this.page.evaluate(() => window.__hemicycle.stats());
  }

  /** What comes from `identity`, of one kind and source. */
  async received(identity, source) {
    const stats = await this.stats();
    const all = stats?.received ?? [];
    return all.find((r) => r.participant === identity && r.source === source);
  }

  async identity() {
    return this.page.evaluate(() => window.__hemicycle.room?.localParticipant.identity ?? '');
  }

  /** Waits until `condition` gives something true; gives it back. */
  async until(what, condition, ms = 15_000) {
    const end = Date.now() + ms;
    for (;;) {
      const value = await condition();
      if (value) return value;
      if (Date.now() > end) throw new Error(`${this.name}: ${what}: not within ${ms / 1000} s`);
      await pause(LOOK_MS);
    }
  }

  async screenshot(path) {
    await this.page.screenshot({ path });
  }

  async close() {
    await this.window.close();
  }
}

/** How much came, as far as it tells whether people see and hear each other. */
export function seenAndHeard(stats, identity) {
  const from = (stats?.received ?? []).filter((r) => r.participant === identity);
  const camera = from.find((r) => r.source === 'camera');
  const microphone = from.find((r) => r.source === 'microphone');
  return {
    frames: camera?.framesDecoded ?? 0,
    size: `${camera?.width ?? 0}x${camera?.height ?? 0}`,
    energy: microphone?.audioEnergy ?? 0,
    lost: (camera?.lost ?? 0) + (microphone?.lost ?? 0),
  };
}
