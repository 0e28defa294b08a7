// Where a participant's address and token come from: the dev server's `/dev/token`, or minted here
// from a key and its secret, as an application's server would.

import { createHmac } from 'node:crypto';

const LIFE_S = 3600;
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** A LiveKit access token (HS256) with which `identity` may join `room`, publish and subscribe. */
export function mint({ key, secret, room, identity, name }) {
  const now = Math.floor(Date.now() / 1000);
  const video = { room, roomJoin: true, canPublish: true, canSubscribe: true, canPublishData: true };
  const claims = { iss: key, sub: identity, name, nbf: now - 10, exp: now + LIFE_S, video };
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

/** `{url, token}` from the dev server at `dev`. */
export async function ticketFromDev(dev, { room, identity, name }) {
  const query = new URLSearchParams({ room, identity, name });
  const answer = await fetch(`${dev.replace(/\/$/, '')}/dev/token?${query}`);
  if (!answer.ok) throw new Error(`${dev}/dev/token answered ${answer.status}`);
  return await answer.json();
}

/** The page's address with a ticket in its fragment. */
export function link(page, { url, token }) {
  return `${page}#${new URLSearchParams({ url, token })}`;
}
