#!/usr/bin/env node
// The whole of what the meeting page must do, with two real browsers against one server.
//
//   scenario.mjs --media-node ../../target/debug/media-node [--pairs …]     starts and ends its own
//   scenario.mjs --dev http://127.0.0.1:7880 [--pairs chromium+chromium,chromium:tcp+firefox]
//   scenario.mjs --server ws://host:7880 --key K --secret S --page http://host/ [--pairs …]
// Common: [--out DIR] [--steps meet,mute,…] [--json FILE]
//
// One line a step with what was measured; the last line is the sum. Exit code 0 if all passed, 1 if
// not, 2 for bad arguments. A browser's `:tcp` keeps its media to TCP. The signalling of the first
// person goes over a wire that is cut.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { ENGINES } from './browser.mjs';
import { openLine } from './line.mjs';
import { Person } from './person.mjs';
import { startMediaNode } from './server.mjs';
import { STEPS } from './steps.mjs';
import { link, mint, ticketFromDev } from './token.mjs';

const PAIRS = 'chromium+chromium,firefox+firefox,chromium+firefox,chromium:tcp+firefox';

function fail(message) {
  console.error(`scenario: ${message}`);
  process.exit(2);
}

function readArguments() {
  const text = { type: 'string' };
  let values;
  try {
    const options = { dev: text, server: text, key: text, secret: text, page: text, json: text };
    Object.assign(options, { out: { ...text, default: 'scenario' }, steps: text });
    options['media-node'] = text;
    options.pairs = { ...text, default: PAIRS };
    ({ values } = parseArgs({ options }));
  } catch (error) {
    fail(error.message);
  }
  const minted = values.server && values.key && values.secret && values.page;
  if (!values.dev && !values['media-node'] && !minted) {
    fail('--media-node, --dev, or --server with --key, --secret and --page is needed');
  }
  return values;
}

async function ticket(args, who) {
  if (args.dev) return ticketFromDev(args.dev, who);
  const { key, secret } = args;
  return { url: args.server, token: mint({ key, secret, ...who }) };
}

async function open(args, browser, name, room, line) {
  const [engine, carrier] = browser.split(':');
  const { url, token } = await ticket(args, { room, identity: name, name });
  const page = args.page ?? `${args.dev.replace(/\/$/, '')}/`;
  const by = line ? line.url : url;
  const where = { link: link(page, { url: by, token }), also: [url] };
  const person = await Person.open({ engine, carrier, name, ...where });
  person.shots = (what) => join(args.out, `${room}-${name}-${what}.png`);
  return person;
}

async function runPair(args, pair, steps) {
  const [first, second] = pair.split('+');
  const room = `scenario-${pair.replace(/[+:]/g, '-')}-${process.pid}`;
  const { url } = await ticket(args, { room, identity: 'probe', name: 'probe' });
  const line = await openLine(url);
  const results = [];
  let a;
  let b;
  try {
    a = await open(args, first, 'anne', room, line);
    b = await open(args, second, 'bastien', room, null);
    for (const [name, what, act] of steps) {
      const begin = Date.now();
      const result = { pair, step: name, ok: true, figures: null };
      try {
        result.figures = await act({ a, b, line });
      } catch (error) {
        Object.assign(result, { ok: false, error: error.message });
        for (const person of [a, b]) {
          await person.screenshot(person.shots(`${name}-failed`)).catch(() => undefined);
        }
        result.console = { a: a.console.slice(-40), b: b.console.slice(-40) };
      }
      result.seconds = (Date.now() - begin) / 1000;
      results.push(result);
      const told = result.ok ? JSON.stringify(result.figures) : result.error;
      const mark = result.ok ? 'ok  ' : 'FAIL';
      console.log(`${mark} ${pair.padEnd(20)} ${what.padEnd(32)} ${result.seconds.toFixed(1)} s  ${told}`);
      if (!result.ok && name === 'meet') break;
    }
  } finally {
    await Promise.all([a?.close(), b?.close()]);
    line.close();
  }
  return results;
}

const args = readArguments();
mkdirSync(args.out, { recursive: true });
const program = args['media-node'];
const node = program ? await startMediaNode(program).catch((e) => fail(e.message)) : null;
if (node) args.dev = node.dev;
const chosen = args.steps?.split(',');
const steps = STEPS.filter(([name]) => !chosen || name === 'meet' || chosen.includes(name));
const results = [];
for (const pair of args.pairs.split(',')) {
  const browsers = pair.split('+');
  const known = (browser) => ENGINES.flatMap((e) => [e, `${e}:tcp`]).includes(browser);
  if (browsers.length !== 2 || !browsers.every(known)) fail(`--pairs: ${pair}`);
  try {
    results.push(...(await runPair(args, pair, steps)));
  } catch (error) {
    results.push({ pair, step: 'open', ok: false, error: error.message });
    console.log(`FAIL ${pair.padEnd(20)} browsers open: ${error.message}`);
  }
}
if (node) {
  results.push({ pair: '', step: 'node', ok: node.alive(), error: node.alive() ? '' : node.said() });
  if (!node.alive()) console.log(`FAIL the media node ended:\n${node.said()}`);
  node.stop();
}
const failed = results.filter((result) => !result.ok).length;
if (args.json) writeFileSync(args.json, `${JSON.stringify(results, null, 2)}\n`);
console.log(`${results.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
