// A meeting: one livekit-client Room and the views around it. Every event of the room ends in one
// look at the whole room (`refresh`), so that no order of events can leave the page behind.

import {
  ConnectionState,
  DisconnectReason,
  Participant,
  Room,
  RoomEvent,
  Track,
  TrackPublication,
  VideoPresets,
} from 'livekit-client';

import { alarm, announce } from './announce';
import { Bar } from './bar';
import type { Act } from './bar';
import { Chat } from './chat';
import type { Hook } from './diagnostics';
import { el, putWords, setText } from './dom';
import type { Ticket } from './entry';
import { emblem, icon } from './icons';
import { WORDS_CHANGED, languageSwitch } from './language';
import { deviceTrouble } from './lobby';
import type { Choice } from './lobby';
import { Panel } from './panel';
import { openShortcuts } from './shortcuts';
import { Stage } from './stage';
import { nameOf } from './tile';
import { t } from './words';

/** Long enough to read, short enough not to be in the way. */
const NOTICE_MS = 5000;

const REFRESHING: readonly RoomEvent[] = [
  RoomEvent.ParticipantConnected,
  RoomEvent.ParticipantDisconnected,
  RoomEvent.ParticipantNameChanged,
  RoomEvent.TrackPublished,
  RoomEvent.TrackUnpublished,
  RoomEvent.TrackSubscribed,
  RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackMuted,
  RoomEvent.TrackUnmuted,
  RoomEvent.TrackStreamStateChanged,
  RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished,
  RoomEvent.ActiveSpeakersChanged,
  RoomEvent.ConnectionQualityChanged,
  RoomEvent.ConnectionStateChanged,
  RoomEvent.AudioPlaybackStatusChanged,
];

export class Meeting {
  readonly element: HTMLElement;
  private readonly room: Room;
  private readonly stage: Stage;
  private readonly bar: Bar;
  private readonly panel: Panel;
  private readonly chat: Chat;
  private readonly title = el('h1', { tabindex: -1 });
  private readonly count = el('span', { class: 'count' });
  private readonly banner = el('div', { class: 'banner', hidden: true });
  private readonly toast = el('p', { class: 'toast', hidden: true });
  private readonly sound: HTMLButtonElement;
  private readonly alone: HTMLElement;
  private toastTimer = 0;
  private refreshing = false;
  private readonly retext = (): void => {
    this.bar.retext();
    this.refresh();
  };

  constructor(
    private readonly hook: Hook,
    link: (() => string) | null,
    private readonly onEnd: (reason: DisconnectReason | undefined) => void,
  ) {
    this.room = new Room({
      adaptiveStream: true,
      dynacast: true,
      videoCaptureDefaults: { resolution: VideoPresets.h720.resolution },
    });
    this.stage = new Stage(this.room);
    this.bar = new Bar((act) => void this.act(act));
    this.chat = new Chat(this.room, () => this.refresh());
    this.panel = new Panel(this.room, this.chat, hook, () => {
      this.refresh();
      this.bar.focus(this.panel.last);
    });
    this.sound = el('button', { type: 'button', class: 'primary sound', hidden: true }, icon('sound'));
    this.sound.append(el('span', { 'data-t': 'enableSound' }));
    this.sound.addEventListener('click', () => void this.room.startAudio());
    this.alone = this.invitation(link);
    const brand = el('div', { class: 'brand' }, emblem(2), el('span', { class: 'unseen' }, 'Hemicycle'));
    const head = el('header', { class: 'head' }, brand, this.title, this.count, languageSwitch());
    const main = el('main', { class: 'floor' }, this.stage.element, this.panel.element);
    this.stage.element.append(this.alone);
    const over = el('div', { class: 'over' }, this.banner, this.toast, this.sound);
    const foot = el('footer', {}, this.bar.element);
    this.element = el('div', { class: 'meeting' }, head, over, main, foot);
    putWords(this.element);
    window.addEventListener(WORDS_CHANGED, this.retext);
    this.wire();
  }

  /** Connects and publishes what the person chose. Fails with livekit-client's error. */
  async join(ticket: Ticket, choice: Pick<Choice, 'audio' | 'video'> | null): Promise<void> {
    await this.room.connect(ticket.url, ticket.token);
    this.hook.room = this.room;
    const { room } = this;
    setText(this.title, room.name);
    document.title = `${room.name} – Hemicycle`;
    const count = t('participants', { count: room.numParticipants || room.remoteParticipants.size + 1 });
    announce(t('youJoined', { room: room.name, count }));
    this.refresh();
    const tracks = [choice?.audio, choice?.video].filter((track) => !!track);
    await Promise.all(
      tracks.map((track) =>
        room.localParticipant.publishTrack(track).catch((error: unknown) => {
          console.warn('a track was not published', error);
          track.stop();
        }),
      ),
    );
    this.refresh();
  }

  /** Puts the focus where reading begins. */
  focus(): void {
    this.title.focus();
  }

  private invitation(link: (() => string) | null): HTMLElement {
    const copy = el('button', { type: 'button', class: 'quiet', 'data-t': 'copyLink' });
    copy.addEventListener('click', () => {
      if (link === null) return;
      void navigator.clipboard?.writeText(link()).then(() => setText(copy, t('copied')));
    });
    const words = el('div', {}, el('strong', { 'data-t': 'aloneTitle' }), ' ');
    words.append(el('span', { 'data-t': 'aloneText' }));
    return el('div', { class: 'alone', hidden: true }, words, link === null ? null : copy);
  }

  private wire(): void {
    const { room } = this;
    for (const event of REFRESHING) room.on(event, () => this.refresh());
    const say = (sentence: string): void => announce(sentence);
    room
      .on(RoomEvent.ParticipantConnected, (p) => say(t('hasJoined', { name: nameOf(p) })))
      .on(RoomEvent.ParticipantDisconnected, (p) => say(t('hasLeft', { name: nameOf(p) })))
      .on(RoomEvent.TrackSubscribed, (_track, publication, p) => this.sayShare(publication, p, true))
      .on(RoomEvent.TrackUnsubscribed, (_track, publication, p) =>
        this.sayShare(publication, p, false),
      )
      .on(RoomEvent.TrackMuted, (publication, p) => this.sayMute(publication, p, true))
      .on(RoomEvent.TrackUnmuted, (publication, p) => this.sayMute(publication, p, false))
      .on(RoomEvent.Reconnecting, () => this.lost())
      .on(RoomEvent.SignalReconnecting, () => this.lost())
      .on(RoomEvent.Reconnected, () => {
        this.banner.hidden = true;
        announce(t('reconnected'));
      })
      .on(RoomEvent.LocalTrackUnpublished, (publication) => {
        if (publication.source === Track.Source.ScreenShare) say(t('shareNowOff'));
      })
      .on(RoomEvent.MediaDevicesError, (error) => this.tell(deviceTrouble(error, 'video')))
      .on(RoomEvent.Disconnected, (reason) => {
        // A connection that never stood is join's failure and not an end.
        if (this.hook.room === room) this.onEnd(reason);
      });
  }

  private lost(): void {
    setText(this.banner, t('reconnecting'));
    if (this.banner.hidden) alarm(t('reconnecting'));
    this.banner.hidden = false;
  }

  private sayShare(publication: TrackPublication, by: Participant, begins: boolean): void {
    if (publication.source !== Track.Source.ScreenShare) return;
    announce(t(begins ? 'isSharing' : 'stoppedSharing', { name: nameOf(by) }));
  }

  private sayMute(publication: TrackPublication, by: Participant, muted: boolean): void {
    if (!by.isLocal) return;
    if (publication.source === Track.Source.Microphone) {
      announce(t(muted ? 'mutedNow' : 'unmutedNow'));
    } else if (publication.source === Track.Source.Camera) {
      announce(t(muted ? 'cameraNowOff' : 'cameraNowOn'));
    }
  }

  private tell(sentence: string): void {
    setText(this.toast, sentence);
    this.toast.hidden = false;
    announce(sentence);
    window.clearTimeout(this.toastTimer);
    this.toastTimer = window.setTimeout(() => {
      this.toast.hidden = true;
    }, NOTICE_MS);
  }

  private async act(act: Act): Promise<void> {
    const me = this.room.localParticipant;
    switch (act) {
      case 'mic':
        return this.attempt('audio', () => me.setMicrophoneEnabled(!me.isMicrophoneEnabled));
      case 'camera':
        return this.attempt('video', () => me.setCameraEnabled(!me.isCameraEnabled));
      case 'share':
        return this.share();
      case 'help':
        return openShortcuts(this.bar);
      case 'leave':
        await this.room.disconnect();
        return;
      default:
        this.panel.toggle(act);
        this.refresh();
    }
  }

  private async attempt(device: 'audio' | 'video', act: () => Promise<unknown>): Promise<void> {
    try {
      await act();
    } catch (error) {
      this.tell(deviceTrouble(error, device));
    }
    this.refresh();
  }

  private async share(): Promise<void> {
    const me = this.room.localParticipant;
    const begin = !me.isScreenShareEnabled;
    try {
      await me.setScreenShareEnabled(begin, { audio: false });
      if (begin) announce(t('shareNowOn'));
    } catch (error) {
      // Closing the browser's own chooser is a choice and not a failure.
      if (!(error instanceof DOMException && error.name === 'NotAllowedError')) {
        this.tell(t('shareFailed'));
      }
    }
    this.refresh();
  }

  /** Looks at the whole room, once for any number of events of this moment. */
  private refresh(): void {
    if (this.refreshing) return;
    this.refreshing = true;
    window.setTimeout(() => {
      this.refreshing = false;
      this.draw();
    }, 0);
  }

  private draw(): void {
    const { room } = this;
    if (room.state === ConnectionState.Disconnected) return;
    const me = room.localParticipant;
    this.stage.refresh();
    this.panel.refresh();
    setText(this.count, t('participants', { count: room.remoteParticipants.size + 1 }));
    this.alone.hidden = room.remoteParticipants.size > 0;
    this.sound.hidden = room.canPlaybackAudio;
    const open = this.panel.open;
    this.element.classList.toggle('with-panel', open !== null);
    this.bar.show(
      {
        mic: me.isMicrophoneEnabled,
        camera: me.isCameraEnabled,
        share: me.isScreenShareEnabled,
        chat: open === 'chat',
        people: open === 'people',
        details: open === 'details',
      },
      this.chat.unread,
    );
  }

  /** Takes the meeting out of the page and lets go of everything. */
  remove(): void {
    window.removeEventListener(WORDS_CHANGED, this.retext);
    window.clearTimeout(this.toastTimer);
    if (this.hook.room === this.room) this.hook.room = null;
    this.room.removeAllListeners();
    void this.room.disconnect();
    this.panel.remove();
    this.bar.remove();
    this.stage.remove();
    this.element.remove();
    document.title = 'Hemicycle';
  }
}
