// The details panel: what the browser measures of this meeting, for the curious and for whoever must
// find out why something is slow. Asks only while it is open.

import type { Hook } from './diagnostics';
import { el, putWords, setText } from './dom';
import { bitrateText } from './measure';
import type { Account, Path, Received, Sent } from './measure';
import { t } from './words';

const EVERY_MS = 1000;

type Cells = readonly (readonly [string, string])[];

function block(title: string, cells: Cells): HTMLElement {
  const list = el('dl');
  for (const [term, value] of cells) {
    if (value !== '') list.append(el('div', {}, el('dt', {}, term), el('dd', {}, value)));
  }
  return el('section', { class: 'measured' }, el('h3', {}, title), list);
}

const size = (of: Sent | Received): string =>
  of.width === undefined ? '' : `${of.width}×${of.height ?? 0} · ${of.framesPerSecond ?? 0}/s`;

function pathBlock(path: Path): HTMLElement {
  return block(`${t('connection')} (${path.of}, ${path.state})`, [
    [t('path'), [path.protocol, path.local, '→', path.remote].filter(Boolean).join(' ')],
    [t('roundTrip'), path.roundTripMs === undefined ? '' : `${path.roundTripMs} ms`],
    ['SRTP', path.srtpCipher ?? ''],
    ['DTLS', path.dtlsCipher ?? ''],
    ['↑', path.availableBps === undefined ? '' : bitrateText(path.availableBps)],
  ]);
}

function sentBlock(sent: Sent): HTMLElement {
  return block(`${t('sending')} · ${sent.source}${sent.rid ? ` ${sent.rid}` : ''}`, [
    ['', [sent.codec, size(sent), bitrateText(sent.bitrateBps)].filter(Boolean).join(' · ')],
    ['', sent.limitedBy === undefined || sent.limitedBy === 'none' ? '' : `↓ ${sent.limitedBy}`],
  ]);
}

function receivedBlock(received: Received): HTMLElement {
  const energy = received.audioEnergy;
  return block(`${t('receiving')} · ${received.participant} · ${received.source}`, [
    ['', [received.codec, size(received), bitrateText(received.bitrateBps)].filter(Boolean).join(' · ')],
    ['frames', received.framesDecoded === undefined ? '' : String(received.framesDecoded)],
    ['energy', energy === undefined ? '' : energy.toFixed(3)],
    ['packets', `${received.packets} · −${received.lost}`],
    ['jitter', received.jitterMs === undefined ? '' : `${received.jitterMs} ms`],
  ]);
}

export class Details {
  readonly element: HTMLElement;
  private readonly body = el('div', { class: 'measurements' });
  private readonly copy: HTMLButtonElement;
  private latest: Account | null = null;
  private timer = 0;

  constructor(private readonly hook: Hook) {
    this.copy = el('button', { type: 'button', class: 'quiet', 'data-t': 'copyDetails' });
    this.copy.addEventListener('click', () => {
      const text = JSON.stringify(this.latest, null, 2);
      void navigator.clipboard?.writeText(text).then(() => setText(this.copy, t('copied')));
    });
    const note = el('p', { class: 'hint', 'data-t': 'detailsNote' });
    this.element = el('div', { class: 'details' }, note, this.body, this.copy);
    putWords(this.element);
  }

  setOpen(open: boolean): void {
    window.clearInterval(this.timer);
    if (!open) return;
    void this.look();
    this.timer = window.setInterval(() => void this.look(), EVERY_MS);
  }

  private async look(): Promise<void> {
    this.latest = await this.hook.stats();
    if (this.latest === null) return;
    const { paths, sent, received } = this.latest;
    this.body.replaceChildren(
      ...paths.map(pathBlock),
      ...sent.filter((s) => s.active !== false).map(sentBlock),
      ...received.map(receivedBlock),
    );
  }
}
