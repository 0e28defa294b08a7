// The panel beside the stage: messages, people or details, one at a time. Escape closes it.

import type { Room } from 'livekit-client';

import type { Chat } from './chat';
import { Details } from './details';
import type { Hook } from './diagnostics';
import { el, putWords, setText } from './dom';
import { icon } from './icons';
import { People } from './people';
import { t } from './words';

export type PanelName = 'chat' | 'people' | 'details';

export class Panel {
  readonly element: HTMLElement;
  private readonly title = el('h2', { id: 'panel-title', tabindex: -1 });
  private readonly people: People;
  private readonly details: Details;
  open: PanelName | null = null;
  /** The panel that was open last: its button gets the focus back. */
  last: PanelName = 'chat';

  constructor(
    room: Room,
    private readonly chat: Chat,
    hook: Hook,
    onClose: () => void,
  ) {
    this.people = new People(room);
    this.details = new Details(hook);
    const close = el('button', { type: 'button', class: 'round plain', 'data-t-label': 'close' });
    close.append(icon('close'));
    const shut = (): void => {
      this.show(null);
      onClose();
    };
    close.addEventListener('click', shut);
    this.element = el(
      'aside',
      { id: 'panel', class: 'panel', 'aria-labelledby': 'panel-title', hidden: true },
      el('header', {}, this.title, close),
      chat.element,
      this.people.element,
      this.details.element,
    );
    this.element.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') shut();
    });
    putWords(this.element);
  }

  toggle(name: PanelName): void {
    this.show(this.open === name ? null : name);
  }

  private show(name: PanelName | null): void {
    this.open = name;
    this.element.hidden = name === null;
    this.chat.element.hidden = name !== 'chat';
    this.people.element.hidden = name !== 'people';
    this.details.element.hidden = name !== 'details';
    this.details.setOpen(name === 'details');
    if (name !== null) {
      this.last = name;
      setText(this.title, t(name));
      this.element.dataset['panel'] = name;
      if (name !== 'chat') this.title.focus();
    }
    this.chat.setOpen(name === 'chat');
  }

  refresh(): void {
    if (this.open !== null) setText(this.title, t(this.open));
    if (this.open === 'people') this.people.refresh();
  }

  remove(): void {
    this.details.setOpen(false);
    this.chat.remove();
    this.element.remove();
  }
}
