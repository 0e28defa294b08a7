// One tile: a participant's camera or shared screen, the name, whether the microphone is on, who is
// speaking, how good the connection is. Shows what the room says; decides nothing.

import { ConnectionQuality, Track } from 'livekit-client';
import type { Participant, TrackPublication } from 'livekit-client';

import { el, setAttribute, setText } from './dom';
import { hueOf, initials } from './grid';
import { icon } from './icons';
import { t } from './words';
import type { Key } from './words';

const QUALITY_WORDS: Record<ConnectionQuality, Key> = {
  [ConnectionQuality.Excellent]: 'excellent',
  [ConnectionQuality.Good]: 'good',
  [ConnectionQuality.Poor]: 'poor',
  [ConnectionQuality.Lost]: 'lost',
  [ConnectionQuality.Unknown]: 'unknown',
};

export type TileSource = Track.Source.Camera | Track.Source.ScreenShare;

/** What people call a participant. */
export function nameOf(participant: Participant): string {
  return participant.name || participant.identity;
}

/** Quality as bars; the words are in the tile's text for screen readers. */
function qualityBars(): SVGSVGElement {
  const SVG = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 16 12');
  svg.setAttribute('class', 'bars');
  svg.setAttribute('aria-hidden', 'true');
  [4, 8, 12].forEach((height, i) => {
    const bar = document.createElementNS(SVG, 'rect');
    bar.setAttribute('x', String(i * 5.5));
    bar.setAttribute('y', String(12 - height));
    bar.setAttribute('width', '4');
    bar.setAttribute('height', String(height));
    bar.setAttribute('rx', '1');
    svg.append(bar);
  });
  return svg;
}

export class Tile {
  readonly element: HTMLLIElement;
  private readonly video: HTMLVideoElement;
  private readonly avatar: HTMLDivElement;
  private readonly name = el('span', { class: 'tile-name' });
  private readonly mic = el('span', { class: 'tile-mic' });
  private readonly paused = el('p', { class: 'tile-paused' });
  private readonly state = el('span', { class: 'unseen' });
  private shown: Track | undefined;

  constructor(
    readonly participant: Participant,
    readonly source: TileSource,
  ) {
    this.video = el('video', { playsinline: true, autoplay: true, 'aria-hidden': 'true' });
    // Sound has elements of its own, so that a tile can come and go without cutting it.
    this.video.muted = true;
    this.avatar = el('div', { class: 'tile-avatar', 'aria-hidden': 'true' });
    this.avatar.style.setProperty('--hue', String(hueOf(participant.identity)));
    this.avatar.append(el('span'));
    const label = el('div', { class: 'tile-label' }, this.mic, this.name, qualityBars());
    this.element = el(
      'li',
      { class: 'tile', 'data-identity': participant.identity, 'data-source': source },
      this.video,
      this.avatar,
      this.paused,
      label,
      this.state,
    );
    this.refresh();
  }

  /** Brings the tile up to date with the room. */
  refresh(): void {
    const { participant, source } = this;
    const publication = participant.getTrackPublication(source);
    this.showTrack(publication);
    const screen = source === Track.Source.ScreenShare;
    const { element } = this;
    element.classList.toggle('local', participant.isLocal);
    element.classList.toggle('mirrored', participant.isLocal && !screen);
    element.classList.toggle('speaking', participant.isSpeaking && !screen);
    setAttribute(element, 'data-quality', participant.connectionQuality);
    const name = nameOf(participant);
    const shown = participant.isLocal ? `${name} (${t('you')})` : name;
    setText(this.name, screen ? `${t('stage')} · ${shown}` : shown);
    setText(this.avatar.firstElementChild as Element, initials(name));
    this.showMicrophone(screen);
    this.describe(screen);
  }

  private showTrack(publication: TrackPublication | undefined): void {
    const visible = publication?.track !== undefined && !publication.isMuted;
    const track = visible ? publication.track : undefined;
    if (track !== this.shown) {
      this.shown?.detach(this.video);
      track?.attach(this.video);
      this.video.muted = true;
      this.shown = track;
    }
    const stopped = track?.streamState === Track.StreamState.Paused;
    this.element.classList.toggle('has-picture', track !== undefined);
    this.element.classList.toggle('is-paused', stopped);
    setText(this.paused, stopped ? t('paused') : '');
  }

  private showMicrophone(screen: boolean): void {
    const on = this.participant.isMicrophoneEnabled;
    this.element.classList.toggle('muted', !on && !screen);
    const wanted = screen ? 'screen' : on ? 'mic' : 'micOff';
    if (this.mic.dataset['icon'] !== wanted) {
      this.mic.dataset['icon'] = wanted;
      this.mic.replaceChildren(icon(wanted));
    }
  }

  private describe(screen: boolean): void {
    const { participant } = this;
    const quality = t(QUALITY_WORDS[participant.connectionQuality]);
    const words = [`${t('quality')}: ${quality}`];
    if (!screen) words.unshift(t(participant.isMicrophoneEnabled ? 'isUnmuted' : 'isMuted'));
    if (participant.isSpeaking && !screen) words.unshift(t('isSpeaking'));
    setText(this.state, `, ${words.join(', ')}`);
    setAttribute(this.element, 'title', `${t('quality')}: ${quality}`);
  }

  /** Lets go of the picture; the tile is not used afterwards. */
  remove(): void {
    this.shown?.detach(this.video);
    this.shown = undefined;
    this.element.remove();
  }
}
