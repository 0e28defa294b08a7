import { describe, expect, it } from 'vitest';

import { describeToken, identityFor, readAddress, roomName, signalUrlOf } from './entry';

const at = (hash: string, search = '') => ({ hash, search, protocol: 'https:', host: 'meet.example' });
const TOKEN = 'a.b.c';

describe('the address', () => {
  it('gives a ticket, with signalling at the same origin where no url is named', () => {
    const url = 'ws://127.0.0.1:7880';
    const given = readAddress(at(`#${new URLSearchParams({ url, token: TOKEN })}`));
    expect(given).toEqual({ kind: 'ticket', ticket: { url, token: TOKEN } });
    const alone = readAddress(at(`#token=${TOKEN}`));
    expect(alone).toEqual({ kind: 'ticket', ticket: { url: 'wss://meet.example', token: TOKEN } });
    expect(signalUrlOf({ protocol: 'http:', host: 'h:1' })).toBe('ws://h:1');
  });

  it('takes http for ws and refuses what cannot carry signalling', () => {
    const ticket = readAddress(at(`#token=${TOKEN}&url=https://h`));
    expect(ticket).toMatchObject({ ticket: { url: 'wss://h' } });
    for (const url of ['javascript:alert(1)', 'file:///etc', 'nowhere', '']) {
      const hash = `#${new URLSearchParams({ token: TOKEN, url })}`;
      expect(readAddress(at(hash)), url).toEqual({ kind: 'bad', reason: 'url' });
    }
    expect(readAddress(at('#token=cut-off'))).toEqual({ kind: 'bad', reason: 'token' });
    expect(readAddress(at('#url=wss://h'))).toEqual({ kind: 'bad', reason: 'token' });
  });

  it('fills in the form from fragment or query', () => {
    expect(readAddress(at('', '?room=demo'))).toEqual({ kind: 'form', room: 'demo', name: '' });
    const both = readAddress(at('#room=here&name=Zo%C3%AB', '?room=demo'));
    expect(both).toEqual({ kind: 'form', room: 'here', name: 'Zoë' });
  });
});

describe('names', () => {
  it('reads what a token says, and nothing from one that is broken', () => {
    const claims = { sub: 'u1', name: 'Élodie', video: { room: 'conseil' } };
    const bytes = new TextEncoder().encode(JSON.stringify(claims));
    const token = `x.${btoa(String.fromCharCode(...bytes)).replaceAll('=', '')}.y`;
    expect(describeToken(token)).toEqual({ room: 'conseil', name: 'Élodie', identity: 'u1' });
    for (const broken of ['', 'a.b.c', 'a.bnVsbA.c', `a.${btoa('[]')}.c`]) {
      expect(describeToken(broken).room, broken).toBe('');
    }
  });

  it('makes room names and identities that are safe in addresses', () => {
    expect(roomName('  Conseil d’État – n° 3 ')).toBe('conseil-d-etat-n-3');
    expect(roomName('…')).toBe('');
    expect(identityFor('Anne', '1234567')).toBe('anne-123456');
    expect(identityFor('王', 'abcdefg')).toBe('guest-abcdef');
  });
});
