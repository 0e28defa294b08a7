// Where the page learns which room to enter: from the fragment of its own address (`#url=…&token=…`,
// which is wiped at once, because an address bar ends up in screenshots and histories), or from the
// dev server beside it. Pure; reading and wiping is main's part.

/** What the fragment said. */
export interface Ticket {
  url: string;
  token: string;
}

export type Entry =
  | { kind: 'ticket'; ticket: Ticket }
  | { kind: 'form'; room: string; name: string }
  | { kind: 'bad'; reason: 'url' | 'token' };

/** Where signalling is when nothing else was said: at the origin the page came from. */
export function signalUrlOf(page: { protocol: string; host: string }): string {
  return `${page.protocol === 'https:' ? 'wss:' : 'ws:'}//${page.host}`;
}

function signalUrl(given: string): string | null {
  try {
    const url = new URL(given);
    const protocols: Record<string, string> = { 'http:': 'ws:', 'https:': 'wss:' };
    const protocol = protocols[url.protocol] ?? url.protocol;
    if (protocol !== 'ws:' && protocol !== 'wss:') return null;
    return given.replace(url.protocol, protocol);
  } catch {
    return null;
  }
}

/** What an address asks for; `room` and `name`, in fragment or query, only fill in the form. */
export function readAddress(at: {
  hash: string;
  search: string;
  protocol: string;
  host: string;
}): Entry {
  const given = new URLSearchParams(at.hash.replace(/^#/, ''));
  const query = new URLSearchParams(at.search);
  const token = given.get('token');
  if (token === null) {
    if (given.has('url')) return { kind: 'bad', reason: 'token' };
    const said = (key: string): string => given.get(key) ?? query.get(key) ?? '';
    return { kind: 'form', room: said('room'), name: said('name') };
  }
  if (token.split('.').length !== 3) return { kind: 'bad', reason: 'token' };
  const url = signalUrl(given.get('url') ?? signalUrlOf(at));
  return url === null ? { kind: 'bad', reason: 'url' } : { kind: 'ticket', ticket: { url, token } };
}

/** Room and name as the token says them, for display only: the server verifies it, the page cannot. */
export function describeToken(token: string): { room: string; name: string; identity: string } {
  const nothing = { room: '', name: '', identity: '' };
  try {
    const part = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(part), (c) => c.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof claims !== 'object' || claims === null) return nothing;
    const { name, sub, video } = claims as { name?: unknown; sub?: unknown; video?: unknown };
    const room = (video as { room?: unknown } | undefined)?.room;
    const text = (value: unknown): string => (typeof value === 'string' ? value : '');
    return { room: text(room), name: text(name) || text(sub), identity: text(sub) };
  } catch {
    return nothing;
  }
}

/** A room's name as people type it, as an address-safe word; empty where nothing is left. */
export function roomName(typed: string): string {
  const plain = typed.normalize('NFKD').replace(/[\u0300-\u036f]/g, '').toLowerCase();
  return plain.replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 64);
}

/** An identity that two people of one name do not share. */
export function identityFor(name: string, random: string): string {
  return `${roomName(name).slice(0, 40) || 'guest'}-${random.slice(0, 6)}`;
}
