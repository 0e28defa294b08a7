// Starts real browsers, headless, with fake devices, profile and home directory of their own, and
// ends them: no process and no directory outlives the driver, whether it ended well, badly or by a
// signal. Foreign host names resolve to nothing, so that no browser reaches further than the meeting.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import puppeteer from 'puppeteer-core';

import { voice } from './voice.mjs';

export const ENGINES = ['chromium', 'firefox'];
const PROGRAMS = {
  chromium: process.env.HEMICYCLE_CHROMIUM ?? '/usr/bin/chromium',
  firefox: process.env.HEMICYCLE_FIREFOX ?? '/usr/bin/firefox-esr',
};
const VIEWPORT = { width: 1280, height: 800 };

/** Everything that must be ended, whatever happens. */
const open = new Set();

async function endAll() {
  await Promise.all([...open].map((one) => one.close()));
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => void endAll().finally(() => process.exit(130)));
}
process.once('exit', () => {
  for (const one of open) one.kill();
});

/** What a network that lets no UDP through makes of Chromium: it connects by TCP alone. */
const TCP_ALONE = '--webrtc-ip-handling-policy=disable_non_proxied_udp';

function chromium(profile, hosts, insecureOrigins, carrier) {
  // Chromium's own fake microphone beeps once a second, which no server takes for speech.
  const sound = join(profile, 'voice.wav');
  writeFileSync(sound, voice());
  const excluded = [...new Set(['localhost', '127.0.0.1', ...hosts])];
  return {
    executablePath: PROGRAMS.chromium,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-dev-shm-usage',
      '--disable-background-timer-throttling',
      '--disable-renderer-backgrounding',
      '--disable-backgrounding-occluded-windows',
      '--disable-features=WebRtcHideLocalIpsWithMdns,MediaRouter,OptimizationHints',
      '--use-fake-device-for-media-stream',
      '--use-fake-ui-for-media-stream',
      `--use-file-for-fake-audio-capture=${sound}`,
      '--autoplay-policy=no-user-gesture-required',
      '--no-proxy-server',
      `--host-resolver-rules=MAP * ~NOTFOUND, ${excluded.map((h) => `EXCLUDE ${h}`).join(', ')}`,
      ...(insecureOrigins.length > 0
        ? [`--unsafely-treat-insecure-origin-as-secure=${insecureOrigins.join(',')}`]
        : []),
      ...(carrier === 'tcp' ? [TCP_ALONE] : []),
    ],
  };
}

function firefox() {
  return {
    executablePath: PROGRAMS.firefox,
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true,
      'media.navigator.permission.disabled': true,
      'media.peerconnection.ice.loopback': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'media.devices.insecure.enabled': true,
      'media.getusermedia.insecure.enabled': true,
      'media.autoplay.default': 0,
      'media.autoplay.blocking_policy': 0,
      // The H264 plug-in would be fetched from its maker.
      'media.gmp-manager.updateEnabled': false,
      'media.gmp-gmpopenh264.enabled': false,
      'network.proxy.type': 0,
      'network.captive-portal-service.enabled': false,
      'network.connectivity-service.enabled': false,
      'network.trr.mode': 5,
      'network.dns.disablePrefetch': true,
      'browser.safebrowsing.malware.enabled': false,
      'browser.safebrowsing.phishing.enabled': false,
      'browser.shell.checkDefaultBrowser': false,
      'datareporting.policy.dataSubmissionEnabled': false,
      'toolkit.telemetry.server': 'data:,',
      'app.normandy.enabled': false,
      'services.settings.server': 'data:,',
      'extensions.getAddons.cache.enabled': false,
    },
  };
}

/** A host as `scheme://host:port`, where it is neither secure nor this machine. */
function insecureOrigin(url) {
  const { protocol, hostname, origin } = new URL(url);
  const local = hostname === 'localhost' || hostname.startsWith('127.') || hostname === '[::1]';
  return protocol === 'http:' && !local ? origin : null;
}

/** What it would keep in somebody's home directory, or beside it in `/tmp`, is kept in `directory`. */
function surroundings(directory) {
  const named = Object.entries(process.env).filter(([name]) => !name.startsWith('XDG_'));
  const own = { HOME: directory, TMPDIR: directory, XDG_RUNTIME_DIR: directory };
  return { ...Object.fromEntries(named), ...own };
}

/**
 * Starts one browser that may reach the hosts of `urls` and nothing else by name.
 * @param {'chromium' | 'firefox'} engine
 * @param {string[]} urls addresses that it will open or call
 * @param {'udp' | 'tcp'} carrier of media; TCP alone is a matter of Chromium
 */
export async function launch(engine, urls, carrier = 'udp') {
  if (!ENGINES.includes(engine)) throw new Error(`browser ${engine} is not one of ${ENGINES}`);
  if (carrier === 'tcp' && engine !== 'chromium') throw new Error(`${engine} cannot be kept to TCP`);
  const directory = mkdtempSync(join(tmpdir(), `hemicycle-${engine}-`));
  const profile = join(directory, 'profile');
  mkdirSync(profile);
  const hosts = urls.map((url) => new URL(url).hostname);
  const insecure = urls.map(insecureOrigin).filter((origin) => origin !== null);
  const special = engine === 'chromium' ? chromium(profile, hosts, insecure, carrier) : firefox();
  let browser;
  const one = {
    kill() {
      browser?.process()?.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true, maxRetries: 20 });
    },
    async close() {
      open.delete(one);
      await Promise.race([browser?.close().catch(() => undefined), pause(5000)]);
      one.kill();
    },
  };
  open.add(one);
  browser = await puppeteer.launch({
    browser: engine === 'chromium' ? 'chrome' : 'firefox',
    headless: true,
    userDataDir: profile,
    env: surroundings(directory),
    defaultViewport: VIEWPORT,
    acceptInsecureCerts: true,
    timeout: 60_000,
    protocolTimeout: 60_000,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    ...special,
  });
  return { engine, carrier, browser, version: await browser.version(), close: () => one.close() };
}

/** Resolves after `ms`; the timer does not hold the program. */
export function pause(ms) {
  return new Promise((resolve) => void setTimeout(resolve, ms));
}
