import { describe, expect, it } from 'vitest';

import { addRates, bitrateText, readPath, readReceived, readSent } from './measure';
import type { Account } from './measure';

const report = (...stats: Record<string, unknown>[]) => ({
  forEach: (look: (stat: Record<string, unknown>) => void) => stats.forEach(look),
});

const account = (atMs: number, bytes: number): Account => ({
  identity: 'a',
  room: 'r',
  state: 'connected',
  atMs,
  paths: [],
  sent: [{ track: 'T', source: 'camera', kind: 'video', rid: 'q', bytes, packets: 1 }],
  received: [],
});

describe('statistics', () => {
  it('reads what is received, as both browsers say it', () => {
    const read = readReceived(
      report(
        { id: 'c', type: 'codec', mimeType: 'video/VP8' },
        { id: 'i', type: 'inbound-rtp', kind: 'video', codecId: 'c', framesDecoded: 7, jitter: 0.0123 },
      ),
      'bob',
      'TR_1',
      'camera',
    );
    expect(read).toMatchObject({ codec: 'VP8', framesDecoded: 7, jitterMs: 12.3, lost: 0, bytes: 0 });
    expect(read).not.toHaveProperty('audioEnergy');
    expect(readReceived(report(), 'bob', 'TR_1', 'camera')).toBeUndefined();
  });

  it('reads every encoding that is sent', () => {
    const out = (rid: string) => ({ id: rid, type: 'outbound-rtp', kind: 'video', rid, bytesSent: 5 });
    const sent = readSent(report(out('q'), out('h')), 'TR_1', 'camera');
    expect(sent.map((s) => s.rid)).toEqual(['q', 'h']);
  });

  it('finds the pair in use with a transport entry and without', () => {
    const local = { id: 'l', type: 'local-candidate', protocol: 'udp', address: '::1', port: 4, candidateType: 'host' };
    const remote = { id: 'r', type: 'remote-candidate', address: '198.18.0.1', port: 5, candidateType: 'host' };
    const pair = { id: 'p', type: 'candidate-pair', localCandidateId: 'l', remoteCandidateId: 'r', currentRoundTripTime: 0.002 };
    const transport = { id: 't', type: 'transport', selectedCandidatePairId: 'p', srtpCipher: 'AEAD_AES_128_GCM' };
    const chromium = readPath(report(local, remote, pair, transport), 'publisher', 'connected');
    expect(chromium).toMatchObject({ local: '[::1]:4 host', remote: '198.18.0.1:5 host', roundTripMs: 2 });
    expect(chromium.srtpCipher).toBe('AEAD_AES_128_GCM');
    const chosen = { ...pair, nominated: true, state: 'succeeded' };
    expect(readPath(report(local, remote, chosen), 'subscriber', 'connected').protocol).toBe('udp');
    expect(readPath(report(), 'subscriber', 'new')).toEqual({ of: 'subscriber', state: 'new' });
  });

  it('makes rates of two accounts, and none of counters that began anew', () => {
    expect(addRates(account(2000, 2250), account(1000, 1000)).sent[0]?.bitrateBps).toBe(10_000);
    expect(addRates(account(2000, 5), account(1000, 1000)).sent[0]?.bitrateBps).toBeUndefined();
    expect(addRates(account(2000, 5), undefined).sent[0]?.bitrateBps).toBeUndefined();
    expect(bitrateText(1_250_000)).toBe('1.3 Mbit/s');
    expect(bitrateText(64_400)).toBe('64 kbit/s');
    expect(bitrateText(undefined)).toBe('–');
  });
});
