// Messages between everybody in the room, as text streams on the topic `lk.chat`, which every LiveKit
// application reads. Kept in this page only, and only the newest.

import type { Room } from 'livekit-client';

import { announce } from './announce';
import { el, putWords, setText } from './dom';
import { hueOf } from './grid';
import { icon } from './icons';
import { nameOf } from './tile';
import { language, t } from './words';

const TOPIC = 'lk.chat';
/** More letters than anyone reads in one message; a text stream could carry any number. */
export const MESSAGE_CHARS_MAX = 4000;
/** More messages than anyone scrolls back; older ones go, so that a long meeting stays light. */
const MESSAGES_MAX = 500;

export class Chat {
  readonly element: HTMLElement;
  private readonly log: HTMLElement;
  private readonly empty = el('p', { class: 'empty', 'data-t': 'noMessages' });
  private readonly input: HTMLTextAreaElement;
  private readonly notice = el('p', { class: 'notice', role: 'alert' });
  private open = false;
  unread = 0;

  constructor(
    private readonly room: Room,
    private readonly onChange: () => void,
  ) {
    this.log = el('ol', { class: 'messages', role: 'log', 'aria-live': 'polite', tabindex: 0 });
    this.log.dataset['tLabel'] = 'chat';
    this.input = el('textarea', { id: 'message', rows: 2, 'data-t-label': 'message' });
    const send = el('button', { type: 'submit', class: 'round', 'data-t-label': 'send' }, icon('send'));
    const form = el('form', { class: 'compose', onsubmit: (e) => this.submit(e) }, this.input, send);
    this.input.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) this.submit(event);
    });
    this.element = el('div', { class: 'chat' }, this.empty, this.log, this.notice, form);
    putWords(this.element);
    room.registerTextStreamHandler(TOPIC, (reader, from) => {
      void reader.readAll().then(
        (text) => this.receive(from.identity, text),
        // A stream that broke off has no text to show; the sender is told by its own page.
        () => undefined,
      );
    });
  }

  /** Says whether the messages are in sight. */
  setOpen(open: boolean): void {
    this.open = open;
    if (open) {
      this.unread = 0;
      this.input.focus();
      this.log.scrollTop = this.log.scrollHeight;
    }
  }

  private receive(identity: string, text: string): void {
    const participant = this.room.getParticipantByIdentity(identity);
    const name = participant ? nameOf(participant) : identity;
    this.add(identity, name, text.slice(0, MESSAGE_CHARS_MAX), false);
    if (!this.open) {
      this.unread += 1;
      announce(t('messageFrom', { name, text: text.slice(0, 200) }));
    }
    this.onChange();
  }

  private add(identity: string, name: string, text: string, own: boolean): void {
    this.empty.hidden = true;
    const time = new Intl.DateTimeFormat(language(), { hour: '2-digit', minute: '2-digit' });
    const who = el('span', { class: 'who' }, name);
    who.style.setProperty('--hue', String(hueOf(identity)));
    const head = el('div', { class: 'head' }, who, el('time', {}, time.format(new Date())));
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    this.log.append(el('li', { class: own ? 'own' : '' }, head, el('p', {}, text)));
    while (this.log.children.length > MESSAGES_MAX) this.log.firstElementChild?.remove();
    if (own || atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  private submit(event: Event): void {
    event.preventDefault();
    const text = this.input.value.trim();
    if (text === '') return;
    const over = [...text].length - MESSAGE_CHARS_MAX;
    if (over > 0) {
      setText(this.notice, t('tooLong', { count: over }));
      return;
    }
    setText(this.notice, '');
    this.input.value = '';
    const { localParticipant } = this.room;
    localParticipant.sendText(text, { topic: TOPIC }).then(
      () => this.add(localParticipant.identity, nameOf(localParticipant), text, true),
      () => {
        if (this.input.value === '') this.input.value = text;
        setText(this.notice, t('notSent'));
      },
    );
  }

  remove(): void {
    this.room.unregisterTextStreamHandler(TOPIC);
    this.element.remove();
  }
}
