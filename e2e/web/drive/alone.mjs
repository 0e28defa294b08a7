// Runs a program against a media node of its own, which ends with it:
//
//   node drive/alone.mjs MEDIA_NODE PROGRAM ARGUMENT...
//
// `{dev}` in an argument becomes the URL where the media node serves and gives tokens.
// The exit code is the program's.

import { spawnSync } from 'node:child_process';
import { startMediaNode } from './server.mjs';

const [mediaNode, program, ...rest] = process.argv.slice(2);
if (!program) {
  console.error('usage: alone.mjs MEDIA_NODE PROGRAM ARGUMENT...');
  process.exit(2);
}
const node = await startMediaNode(mediaNode);
const line = rest.map((argument) => argument.replaceAll('{dev}', node.dev));
const { status, error } = spawnSync(program, line, { stdio: 'inherit' });
if (error) console.error(`${program}: ${error.message}`);
if (status !== 0) console.error(node.said());
node.stop();
process.exit(status ?? 1);
