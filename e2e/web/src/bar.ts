// The bar of controls at the bottom of a meeting and its shortcuts. Says what a press would do; the
// meeting does it.

import { el, setAttribute, setText } from './dom';
import { icon } from './icons';
import type { IconName } from './icons';
import { t } from './words';
import type { Key } from './words';

export type Act = 'mic' | 'camera' | 'share' | 'chat' | 'people' | 'details' | 'help' | 'leave';

interface Control {
  act: Act;
  key: string;
  icon: IconName;
  iconOff?: IconName;
  /** The word under the sign. */
  word: Key;
  /** What a press does while on, and while off. */
  on: Key;
  off: Key;
}

const CONTROLS: readonly Control[] = [
  { act: 'mic', key: 'm', icon: 'mic', iconOff: 'micOff', word: 'microphoneShort', on: 'micOn', off: 'micOff' },
  { act: 'camera', key: 'v', icon: 'camera', iconOff: 'cameraOff', word: 'cameraShort', on: 'cameraOn', off: 'cameraOff' },
  { act: 'share', key: 's', icon: 'screen', word: 'shareShort', on: 'shareOn', off: 'shareOff' },
  { act: 'chat', key: 'c', icon: 'chat', word: 'chat', on: 'chat', off: 'chat' },
  { act: 'people', key: 'p', icon: 'people', word: 'people', on: 'people', off: 'people' },
  { act: 'details', key: 'd', icon: 'gauge', word: 'details', on: 'details', off: 'details' },
  { act: 'help', key: '?', icon: 'help', word: 'help', on: 'shortcuts', off: 'shortcuts' },
  { act: 'leave', key: '', icon: 'leave', word: 'leave', on: 'leave', off: 'leave' },
];

/** Controls that open and close a panel; the others switch a device or act once. */
const PANELS: ReadonlySet<Act> = new Set<Act>(['chat', 'people', 'details']);
const SWITCHES: ReadonlySet<Act> = new Set<Act>(['mic', 'camera', 'share']);

export type Switches = Partial<Record<Act, boolean>>;

export class Bar {
  readonly element: HTMLElement;
  private readonly buttons = new Map<Act, { control: Control; button: HTMLButtonElement }>();
  private readonly badge = el('span', { class: 'badge', hidden: true });
  private state: Switches = {};
  private unread = 0;
  /** Single-key shortcuts can get in the way of speech input, so they can be turned off. */
  singleKeys = true;
  private readonly onKey = (event: KeyboardEvent): void => this.press(event);

  constructor(private readonly act: (act: Act) => void) {
    this.element = el('div', { class: 'bar', role: 'toolbar', 'data-t-label': 'controls' });
    for (const control of CONTROLS) {
      const button = el('button', {
        type: 'button',
        class: 'control',
        id: `control-${control.act}`,
        'data-act': control.act,
        'aria-keyshortcuts': control.key === '' ? 'Control+Shift+L' : control.key.toUpperCase(),
        onclick: () => this.act(control.act),
      });
      if (PANELS.has(control.act)) button.setAttribute('aria-controls', 'panel');
      this.buttons.set(control.act, { control, button });
      this.element.append(button);
    }
    window.addEventListener('keydown', this.onKey);
    this.show({});
  }

  /** Shows what is on. */
  show(state: Switches, unread = 0): void {
    this.state = state;
    this.unread = unread;
    for (const { control, button } of this.buttons.values()) {
      const on = state[control.act] === true;
      const words = t(on ? control.on : control.off);
      const drawn = `${control.act}/${String(on)}/${words}`;
      if (button.dataset['drawn'] !== drawn) {
        button.dataset['drawn'] = drawn;
        const sign = !on && control.iconOff ? control.iconOff : control.icon;
        const word = el('span', { class: 'word', 'aria-hidden': 'true' }, t(control.word));
        button.replaceChildren(icon(sign), word);
        if (control.act === 'chat') button.append(this.badge);
      }
      button.classList.toggle('on', on);
      button.classList.toggle('off', SWITCHES.has(control.act) && !on);
      if (PANELS.has(control.act)) setAttribute(button, 'aria-expanded', String(on));
      const count = control.act === 'chat' && unread > 0 ? ` (${unread})` : '';
      setAttribute(button, 'aria-label', words + count);
      const shortcut = control.key === '' ? 'Ctrl+Shift+L' : control.key.toUpperCase();
      setAttribute(button, 'title', `${words} – ${shortcut}`);
    }
    this.badge.hidden = unread === 0;
    setText(this.badge, unread > 99 ? '99+' : String(unread));
  }

  /** Writes the words again, after the language changed. */
  retext(): void {
    this.show(this.state, this.unread);
  }

  focus(act: Act): void {
    this.buttons.get(act)?.button.focus();
  }

  private press(event: KeyboardEvent): void {
    const target = event.target as HTMLElement | null;
    if (event.defaultPrevented || event.repeat || document.querySelector('dialog[open]')) return;
    if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === 'l') {
      event.preventDefault();
      this.act('leave');
      return;
    }
    const typing = target?.closest('input, textarea, select, [contenteditable]');
    if (!this.singleKeys || typing || event.ctrlKey || event.altKey || event.metaKey) return;
    const control = CONTROLS.find((c) => c.key !== '' && c.key === event.key.toLowerCase());
    if (control !== undefined) {
      event.preventDefault();
      this.act(control.act);
    }
  }

  remove(): void {
    window.removeEventListener('keydown', this.onKey);
    this.element.remove();
  }
}

/** Rows of the list of shortcuts. */
export const SHORTCUTS: readonly (readonly [string, Key])[] = [
  ['M', 'shortcutM'],
  ['V', 'shortcutV'],
  ['S', 'shortcutS'],
  ['C', 'shortcutC'],
  ['P', 'shortcutP'],
  ['D', 'shortcutD'],
  ['?', 'shortcutHelp'],
  ['Esc', 'shortcutEsc'],
  ['Ctrl + Shift + L', 'shortcutLeave'],
];
