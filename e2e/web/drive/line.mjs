// A wire that can be cut: a TCP relay before the signalling port. Cutting it destroys every connection
// through it, as a lost network does; media goes its own way over UDP and does not pass here.

import { connect, createServer } from 'node:net';

/** Starts a relay to the host and port of `url`; `url` of the result leads through it. */
export async function openLine(url) {
  const target = new URL(url);
  const port = Number(target.port || (target.protocol === 'wss:' ? 443 : 80));
  const sockets = new Set();
  let refusing = false;
  const server = createServer((near) => {
    if (refusing) {
      near.destroy();
      return;
    }
    const far = connect(port, target.hostname);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      sockets.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const through = new URL(url);
  through.hostname = '127.0.0.1';
  through.port = String(server.address().port);
  return {
    url: through.href.replace(/\/$/, ''),
    /** Destroys every connection; how many there were. */
    cut() {
      const count = sockets.size / 2;
      for (const socket of sockets) socket.destroy();
      return count;
    },
    /** Lets nothing new through until it is called with false. */
    refuse(on) {
      refusing = on;
    },
    close() {
      refusing = true;
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
