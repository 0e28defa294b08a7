// A media node of its own for a driver: started with `--dev` on ports that are free, and ended with the
// driver.

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { pause } from './browser.mjs';

const HOST = '127.0.0.1';
const STARTS_WITHIN_MS = 10_000;
const PAGE = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist');

/** Below the range from which the kernel takes ports for outgoing connections. */
const PORT_FIRST = 20_000;
const PORT_LAST = 32_000;

async function isFree(port) {
  const server = createServer();
  const outcome = new Promise((resolve) => {
    server.once('listening', () => resolve(true)).once('error', () => resolve(false));
  });
  // On every address: media over TCP listens on all of this machine's.
  server.listen(port);
  const free = await outcome;
  if (free) await new Promise((resolve) => server.close(resolve));
  return free;
}

/** Ports that nobody listens on at this moment; whoever is quicker makes the start fail, and says so. */
async function freePorts(count) {
  const ports = [];
  while (ports.length < count) {
    const port = PORT_FIRST + Math.floor(Math.random() * (PORT_LAST - PORT_FIRST));
    if (!ports.includes(port) && (await isFree(port))) ports.push(port);
  }
  return ports;
}

/** Starts the program at `path`; `dev` of the result is where its tokens are. */
export async function startMediaNode(path) {
  const [signal, admin, tcp, udp] = await freePorts(4);
  const dev = `http://${HOST}:${signal}`;
  const line = ['--dev', '--signal-address', `${HOST}:${signal}`];
  line.push('--admin-address', `${HOST}:${admin}`, '--tcp-port', String(tcp));
  line.push('--udp-port-first', String(udp), '--page-directory', PAGE);
  line.push('--stop-timeout-seconds', '1');
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
