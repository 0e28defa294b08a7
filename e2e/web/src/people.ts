// The list of who is here: name, microphone, camera, who is speaking, connection.

import type { Participant, Room } from 'livekit-client';

import { el, setText } from './dom';
import { hueOf, initials } from './grid';
import { icon } from './icons';
import { nameOf } from './tile';
import { t } from './words';
import type { Key } from './words';

interface Row {
  element: HTMLLIElement;
  name: HTMLElement;
  state: HTMLElement;
  signs: HTMLElement;
}

export class People {
  readonly element = el('ul', { class: 'people', 'data-t-label': 'people' });
  private readonly rows = new Map<string, Row>();

  constructor(private readonly room: Room) {}

  refresh(): void {
    const { localParticipant, remoteParticipants } = this.room;
    const all = [localParticipant, ...remoteParticipants.values()];
    const here = new Set(all.map((participant) => participant.sid));
    for (const [sid, row] of this.rows) {
      if (!here.has(sid)) {
        row.element.remove();
        this.rows.delete(sid);
      }
    }
    for (const participant of all) this.show(participant);
  }

  private show(participant: Participant): void {
    let row = this.rows.get(participant.sid);
    if (row === undefined) {
      row = this.make(participant);
      this.rows.set(participant.sid, row);
      this.element.append(row.element);
    }
    const name = nameOf(participant);
    setText(row.name, participant.isLocal ? `${name} (${t('you')})` : name);
    const words = [t(participant.isMicrophoneEnabled ? 'isUnmuted' : 'isMuted')];
    if (participant.isSpeaking) words.unshift(t('isSpeaking'));
    const quality = participant.connectionQuality as Key;
    words.push(`${t('quality')}: ${t(quality)}`);
    setText(row.state, words.join(' · '));
    row.element.classList.toggle('speaking', participant.isSpeaking);
    const drawn = `${String(participant.isMicrophoneEnabled)}${String(participant.isCameraEnabled)}`;
    if (row.signs.dataset['drawn'] !== drawn) {
      row.signs.dataset['drawn'] = drawn;
      row.signs.replaceChildren(
        icon(participant.isMicrophoneEnabled ? 'mic' : 'micOff'),
        icon(participant.isCameraEnabled ? 'camera' : 'cameraOff'),
      );
    }
  }

  private make(participant: Participant): Row {
    const avatar = el('span', { class: 'small-avatar', 'aria-hidden': 'true' });
    avatar.append(initials(nameOf(participant)));
    avatar.style.setProperty('--hue', String(hueOf(participant.identity)));
    const name = el('span', { class: 'name' });
    const state = el('span', { class: 'state' });
    const signs = el('span', { class: 'signs' });
    const words = el('span', { class: 'words' }, name, state);
    return { element: el('li', {}, avatar, words, signs), name, state, signs };
  }
}
