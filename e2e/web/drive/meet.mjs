#!/usr/bin/env node
// Opens people in real browsers in one meeting and says what each received.
//
//   meet.mjs --dev http://127.0.0.1:7880 --room R [--with chromium,firefox] [--out DIR] [--hold S]
//   meet.mjs --page http://host/meet/ --join 'browser=chromium,url=ws://…,token=…,name=…' [--join …]
//   meet.mjs --browser firefox --url 'http://host/meet/#url=…&token=…' --expect 2 --json F
//            [--screenshot F]
//
// Each person waits until pictures and sound of every other have come; `--expect N` waits for N others,
// of whom some may be elsewhere. Exit code 0 if everyone met everyone, 1 if not, 2 for bad arguments.
// Common: --seconds S (bound, 60), --linger S (how long the early ones stay, 5), --hold S.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { pause } from './browser.mjs';
import { Person, seenAndHeard } from './person.mjs';
import { link, ticketFromDev } from './token.mjs';

const FRAMES_WANTED = 15;

function fail(message) {
  console.error(`meet: ${message}`);
  process.exit(2);
}

function readArguments() {
  const text = { type: 'string' };
  try {
    return parseArgs({
      options: {
        dev: text,
        room: text,
        with: { ...text, default: 'chromium,chromium' },
        page: text,
        join: { ...text, multiple: true },
        browser: text,
        url: text,
        expect: text,
        json: text,
        screenshot: text,
        out: text,
        hold: { ...text, default: '0' },
        seconds: { ...text, default: '60' },
        linger: { ...text, default: '5' },
      },
    }).values;
  } catch (error) {
    return fail(error.message);
  }
}

/** `a=b,c=d`; a value may hold `=` but no comma. */
function pairs(given) {
  return Object.fromEntries(
    given.split(',').map((pair) => {
      const at = pair.indexOf('=');
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

async function people(args) {
  if (args.url !== undefined) {
    const { hash } = new URL(args.url);
    const url = new URLSearchParams(hash.slice(1)).get('url');
    return [{ engine: args.browser ?? 'chromium', link: args.url, also: url ? [url] : [] }];
  }
  if (args.join !== undefined) {
    if (args.page === undefined) fail('--join needs --page');
    return args.join.map((given) => {
      const { browser = 'chromium', url, token, name } = pairs(given);
      if (!url || !token) fail(`--join ${given}: url and token are needed`);
      return { engine: browser, name, link: link(args.page, { url, token }), also: [url] };
    });
  }
  if (args.dev === undefined || args.room === undefined) {
    fail('one of --dev with --room, --page with --join, or --url is needed');
  }
  const engines = args.with.split(',');
  return Promise.all(
    engines.map(async (engine, i) => {
      const name = `${engine}-${i + 1}`;
      const ticket = await ticketFromDev(args.dev, { room: args.room, identity: name, name });
      const page = args.page ?? `${args.dev.replace(/\/$/, '')}/`;
      return { engine, name, link: link(page, ticket), also: [ticket.url] };
    }),
  );
}

/** Joins and waits until enough others are seen and heard. */
async function meet(wanted, expect, seconds) {
  const begin = Date.now();
  const report = { participant: '', client: wanted.engine, ok: false, received: {} };
  let person;
  try {
    person = await Person.open(wanted);
    report.client = `${person.window.version} (${wanted.engine})`;
    report.connected_seconds = (await person.join()) / 1000;
    report.participant = await person.identity();
    const met = async () => {
      const stats = await person.stats();
      report.account = stats;
      const others = [...new Set((stats?.received ?? []).map((r) => r.participant))];
      report.received = Object.fromEntries(others.sort().map((o) => [o, seenAndHeard(stats, o)]));
      const all = Object.values(report.received);
      return all.filter((o) => o.frames >= FRAMES_WANTED && o.energy > 0).length >= expect;
    };
    await person.until(`sees and hears ${expect} others`, met, seconds * 1000);
    report.met_seconds = (Date.now() - begin) / 1000;
    report.ok = true;
  } catch (error) {
    report.error = error.message;
  }
  return { person, report };
}

async function finish({ person, report }, files) {
  if (person !== undefined) {
    await person.screenshot(files.screenshot).catch((e) => (report.screenshot_error = e.message));
    if (!report.ok) report.console = person.console;
  }
  writeFileSync(files.json, `${JSON.stringify(report, null, 2)}\n`);
  await person?.close();
}

const args = readArguments();
const out = args.out ?? '.';
mkdirSync(out, { recursive: true });
const wanted = await people(args);
const expect = Number(args.expect ?? wanted.length - 1);
const met = await Promise.all(wanted.map((one) => meet(one, expect, Number(args.seconds))));
const ok = met.every(({ report }) => report.ok);
if (ok) await pause(1000 * Math.max(Number(args.linger), Number(args.hold)));
await Promise.all(
  met.map(({ person, report }, i) => {
    const name = wanted[i].name ?? `${wanted[i].engine}-${i + 1}`;
    return finish(
      { person, report },
      {
        json: args.json ?? join(out, `${name}.json`),
        screenshot: args.screenshot ?? join(out, `${name}.png`),
      },
    );
  }),
);
for (const { report } of met) {
  const heard = Object.entries(report.received)
    .map(([who, r]) => `${who}: ${r.frames} frames ${r.size}, energy ${r.energy.toFixed(3)}`)
    .join('; ');
  console.log(`${report.ok ? 'ok  ' : 'FAIL'} ${report.participant || report.client}: ${heard}`);
  if (report.error) console.log(`     ${report.error}`);
}
process.exit(ok ? 0 : 1);
