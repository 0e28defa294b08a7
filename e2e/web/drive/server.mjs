// A media node of its own for a driver: started with `--dev` on ports that a developer's own does not
// use, and ended with the driver.

import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { pause } from './browser.mjs';

const HOST = '127.0.0.1';
const SIGNAL_PORT = 17_880;
const STARTS_WITHIN_MS = 10_000;
const PAGE = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist');

/** Starts the program at `path`; `dev` of the result is where its tokens are. */
export async function startMediaNode(path) {
  const dev = `http://${HOST}:${SIGNAL_PORT}`;
  const line = ['--dev', '--signal-address', `${HOST}:${SIGNAL_PORT}`];
  line.push('--admin-address', `${HOST}:${SIGNAL_PORT + 2}`, '--tcp-port', `${SIGNAL_PORT + 3}`);
  line.push('--udp-port-first', '51880', '--page-directory', PAGE, '--stop-timeout-seconds', '1');
  const child = spawn(path, line, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  let ended = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => (said = (said + chunk).slice(-20_000)));
  }
  child.on('error', (error) => {
    said += error.message;
    ended = true;
  });
  child.on('exit', () => (ended = true));
  process.once('exit', () => child.kill('SIGKILL'));
  const end = Date.now() + STARTS_WITHIN_MS;
  for (;;) {
    const answer = await fetch(dev, { method: 'HEAD' }).catch(() => null);
    if (answer && !ended) break;
    if (ended || Date.now() > end) throw new Error(`${path} does not serve at ${dev}:\n${said}`);
    await pause(100);
  }
  return { dev, said: () => said, alive: () => !ended, stop: () => child.kill('SIGTERM') };
}
