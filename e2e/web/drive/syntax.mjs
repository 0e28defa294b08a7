// Part of `npm run check`: every driver parses before a browser starts.

import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const files = readdirSync(here).filter((name) => name.endsWith('.mjs') && !name.startsWith('.'));
for (const name of files) {
  execFileSync(process.execPath, ['--check', join(here, name)], { stdio: 'inherit' });
}
console.log(`${files.length} drivers parse`);
