// What is shown after a meeting or instead of one: what happened, and what can be done.

import { ConnectionError, ConnectionErrorReason, DisconnectReason } from 'livekit-client';

import { el, putWords } from './dom';
import { emblem } from './icons';
import { languageSwitch } from './language';
import { t } from './words';
import type { Key } from './words';

export interface Ending {
  title: Key;
  text: Key;
  values?: Record<string, string>;
}

/** Why a meeting ended, in words that help. */
export function endingOf(reason: DisconnectReason | undefined): Ending {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return { title: 'leftTitle', text: 'leftText' };
    case DisconnectReason.DUPLICATE_IDENTITY:
      return { title: 'endedTitle', text: 'duplicate' };
    case DisconnectReason.PARTICIPANT_REMOVED:
      return { title: 'endedTitle', text: 'removed' };
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return { title: 'endedTitle', text: 'roomDeleted' };
    case DisconnectReason.SERVER_SHUTDOWN:
      return { title: 'endedTitle', text: 'shutdown' };
    case DisconnectReason.STATE_MISMATCH:
      return { title: 'endedTitle', text: 'mismatch' };
    default:
      return { title: 'endedTitle', text: 'connectionLost' };
  }
}

/** Why a meeting could not begin. */
export function failureOf(error: unknown, url: string): Ending {
  const title = 'errorTitle';
  if (error instanceof ConnectionError) {
    if (error.reason === ConnectionErrorReason.NotAllowed) return { title, text: 'notAllowed' };
    const host = URL.canParse(url) ? new URL(url).host : url;
    const away: readonly ConnectionErrorReason[] = [
      ConnectionErrorReason.ServerUnreachable,
      ConnectionErrorReason.WebSocket,
      ConnectionErrorReason.Timeout,
    ];
    if (away.includes(error.reason)) return { title, text: 'unreachable', values: { url: host } };
  }
  return { title, text: 'mediaFailed' };
}

/** The view; `again` and `another` are left out where they make no sense. */
export function endingView(
  ending: Ending,
  acts: { again?: (() => void) | undefined; another?: (() => void) | undefined },
): HTMLElement {
  const title = el('h1', { tabindex: -1, 'data-t': ending.title });
  const text = el('p', { class: 'reason' }, t(ending.text, ending.values));
  const buttons = el('div', { class: 'buttons' });
  if (acts.again) {
    buttons.append(
      el('button', { type: 'button', id: 'rejoin', class: 'primary', 'data-t': 'rejoin', onclick: acts.again }),
    );
  }
  if (acts.another) {
    buttons.append(
      el('button', { type: 'button', class: 'quiet', 'data-t': 'another', onclick: acts.another }),
    );
  }
  const brand = el('div', { class: 'brand' }, emblem(), el('span', {}, 'Hemicycle'));
  const top = el('div', { class: 'lobby-top' }, brand, languageSwitch());
  const card = el('section', { class: 'card entry' }, top, title, text, buttons);
  const view = el('main', { class: 'lobby ending', 'data-reason': ending.text }, card);
  putWords(view);
  return view;
}
