// The lobby: see oneself, choose devices, type a name, enter. Holds camera and microphone only as long
// as it is shown, or hands them over to the meeting. Works without either device.

import {
  LocalAudioTrack,
  LocalVideoTrack,
  MediaDeviceFailure,
  VideoPresets,
  createLocalAudioTrack,
  createLocalVideoTrack,
} from 'livekit-client';

import { el, putWords, setText } from './dom';
import { emblem, icon } from './icons';
import { WORDS_CHANGED, languageSwitch } from './language';
import { LevelMeter } from './level';
import { t } from './words';
import type { Key } from './words';

/** What a person chose. The tracks run; who takes them must stop them. */
export interface Choice {
  room: string;
  name: string;
  audio: LocalAudioTrack | null;
  video: LocalVideoTrack | null;
}

export interface LobbyOptions {
  /** Whether room and name can be typed, or the token has fixed them. */
  editable: boolean;
  room: string;
  name: string;
  onJoin(choice: Choice): void;
}

type Device = 'audio' | 'video';

export class Lobby {
  readonly element: HTMLElement;
  private readonly video = el('video', { playsinline: true, autoplay: true, 'data-t-label': 'preview' });
  private readonly off = el('p', { class: 'preview-off', 'data-t': 'cameraIsOff' });
  private readonly notice = el('p', { class: 'notice', role: 'alert' });
  private readonly meter = new LevelMeter();
  private readonly tracks: { audio: LocalAudioTrack | null; video: LocalVideoTrack | null } = {
    audio: null,
    video: null,
  };
  private readonly toggles: Record<Device, HTMLButtonElement>;
  private readonly choosers: Record<Device, HTMLSelectElement>;
  private readonly room = el('input', { id: 'room', name: 'room', required: true, maxlength: 64 });
  private readonly name = el('input', { id: 'name', name: 'name', required: true, maxlength: 64 });
  private readonly join = el('button', { id: 'join', type: 'submit', class: 'primary' });
  private gone = false;
  private readonly retext = (): void => this.show();

  constructor(private readonly options: LobbyOptions) {
    this.video.muted = true;
    this.toggles = { audio: this.toggle('audio'), video: this.toggle('video') };
    this.choosers = { audio: this.chooser('audio'), video: this.chooser('video') };
    this.room.value = options.room;
    this.name.value = options.name;
    this.join.dataset['t'] = 'join';
    this.element = el('main', { class: 'lobby' }, this.previewCard(), this.form());
    window.addEventListener(WORDS_CHANGED, this.retext);
    putWords(this.element);
    this.show();
  }

  /** Begins to look for devices. Called once the lobby stands in the page. */
  async open(): Promise<void> {
    if (this.options.editable) (this.room.value ? this.name : this.room).focus();
    else this.join.focus();
    await Promise.all([this.start('audio'), this.start('video')]);
    await this.fillChoosers();
  }

  private previewCard(): HTMLElement {
    const picture = el('div', { class: 'preview' }, this.video, this.off);
    const buttons = el('div', { class: 'preview-buttons' }, this.toggles.audio, this.toggles.video);
    picture.append(buttons, this.meter.element);
    const field = (device: Device, key: Key): HTMLElement =>
      el('label', { class: 'field' }, el('span', { 'data-t': key }), this.choosers[device]);
    const devices = el('div', { class: 'devices' }, field('audio', 'microphone'), field('video', 'camera'));
    return el('section', { class: 'card preview-card' }, picture, devices);
  }

  private form(): HTMLElement {
    const { options } = this;
    const brand = el('div', { class: 'brand' }, emblem(), el('span', {}, 'Hemicycle'));
    const title = el('h1', { tabindex: -1 }, options.editable ? '' : options.room);
    if (options.editable) title.dataset['t'] = 'tagline';
    const hint = el('span', { class: 'hint', id: 'room-hint', 'data-t': 'roomHint' });
    this.room.setAttribute('aria-describedby', 'room-hint');
    const field = (key: Key, input: HTMLElement, more?: HTMLElement): HTMLElement =>
      el('label', { class: 'field' }, el('span', { 'data-t': key }), input, more);
    this.name.setAttribute('autocomplete', 'name');
    this.room.setAttribute('autocomplete', 'off');
    const form = el('form', { novalidate: false, onsubmit: (event) => this.submit(event) });
    if (options.editable) form.append(field('room', this.room, hint), field('name', this.name));
    else form.append(el('p', { class: 'who' }, options.name));
    form.append(this.join, this.notice);
    const top = el('div', { class: 'lobby-top' }, brand, languageSwitch());
    return el('section', { class: 'card entry' }, top, title, form);
  }

  private toggle(device: Device): HTMLButtonElement {
    const act = (): void => void (this.tracks[device] ? this.stop(device) : this.start(device));
    return el('button', { type: 'button', class: 'round', onclick: act, 'data-device': device });
  }

  private chooser(device: Device): HTMLSelectElement {
    const kind = device === 'audio' ? 'audioinput' : 'videoinput';
    const select = el('select', { 'data-device': kind, disabled: true });
    select.addEventListener('change', () => {
      this.stop(device);
      void this.start(device, select.value);
    });
    return select;
  }

  private async start(device: Device, deviceId?: string): Promise<void> {
    setText(this.notice, '');
    try {
      const chosen = deviceId === undefined ? {} : { deviceId: { exact: deviceId } };
      if (device === 'audio') {
        this.take('audio', await createLocalAudioTrack(chosen));
      } else {
        const { resolution } = VideoPresets.h720;
        this.take('video', await createLocalVideoTrack({ ...chosen, resolution }));
      }
    } catch (error) {
      setText(this.notice, deviceTrouble(error, device));
    }
    this.show();
  }

  private take(device: Device, track: LocalAudioTrack | LocalVideoTrack): void {
    if (this.gone) {
      track.stop();
      return;
    }
    this.tracks[device]?.stop();
    if (device === 'audio') {
      this.tracks.audio = track as LocalAudioTrack;
      this.meter.listen(track.mediaStreamTrack);
    } else {
      this.tracks.video = track as LocalVideoTrack;
      track.attach(this.video);
    }
  }

  private stop(device: Device): void {
    const track = this.tracks[device];
    if (device === 'audio') this.meter.close();
    else track?.detach(this.video);
    track?.stop();
    this.tracks[device] = null;
    this.show();
  }

  private async fillChoosers(): Promise<void> {
    const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    for (const device of ['audio', 'video'] as const) {
      const select = this.choosers[device];
      const found = devices.filter((d) => d.kind === select.dataset['device'] && d.deviceId !== '');
      const used = this.tracks[device]?.mediaStreamTrack.getSettings().deviceId;
      select.replaceChildren(
        ...found.map((d, i) =>
          el('option', { value: d.deviceId, selected: d.deviceId === used }, d.label || `${i + 1}`),
        ),
      );
      select.disabled = found.length === 0;
      if (found.length === 0) select.append(el('option', { 'data-t': 'noDevice' }, t('noDevice')));
    }
  }

  private show(): void {
    const { audio, video } = this.tracks;
    const shown = (button: HTMLButtonElement, on: boolean, words: Key, sign: 'mic' | 'camera'): void => {
      button.classList.toggle('off', !on);
      button.setAttribute('aria-label', t(words));
      button.title = t(words);
      button.replaceChildren(icon(on ? sign : `${sign}Off`));
    };
    shown(this.toggles.audio, audio !== null, audio ? 'micOn' : 'micOff', 'mic');
    shown(this.toggles.video, video !== null, video ? 'cameraOn' : 'cameraOff', 'camera');
    this.off.hidden = video !== null;
    this.video.classList.toggle('shown', video !== null);
  }

  private submit(event: Event): void {
    event.preventDefault();
    this.join.disabled = true;
    this.join.dataset['t'] = 'joining';
    setText(this.join, t('joining'));
    const { audio, video } = this.tracks;
    this.options.onJoin({
      room: this.room.value.trim(),
      name: this.name.value.trim(),
      audio,
      video,
    });
  }

  /** Takes the lobby out of the page; the tracks go on, they belong to the meeting now. */
  remove(): void {
    this.gone = true;
    this.meter.close();
    if (this.tracks.video) this.tracks.video.detach(this.video);
    window.removeEventListener(WORDS_CHANGED, this.retext);
    this.element.remove();
  }
}

/** What to tell a person whose device did not start. */
export function deviceTrouble(error: unknown, device: Device): string {
  const named = t(device === 'audio' ? 'theMicrophone' : 'theCamera');
  switch (MediaDeviceFailure.getFailure(error)) {
    case MediaDeviceFailure.DeviceInUse:
      return t('deviceBusy', { device: named });
    case MediaDeviceFailure.NotFound:
      return t('deviceMissing', { device: named });
    default:
      return t('deviceDenied', { device: named });
  }
}
