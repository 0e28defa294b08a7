// The list of shortcuts, and the switch that turns the single-key ones off.

import { SHORTCUTS } from './bar';
import type { Bar } from './bar';
import { el } from './dom';
import { icon } from './icons';
import { t } from './words';

/** Opens the list; closing it gives the focus back to where it was. */
export function openShortcuts(bar: Bar): void {
  const box = el('input', { type: 'checkbox' });
  box.checked = bar.singleKeys;
  box.addEventListener('change', () => {
    bar.singleKeys = box.checked;
  });
  const rows = SHORTCUTS.map(([key, words]) =>
    el('div', {}, el('dt', {}, el('kbd', {}, key)), el('dd', {}, t(words))),
  );
  const close = el('button', { type: 'button', class: 'round plain', 'aria-label': t('close') });
  close.append(icon('close'));
  const dialog = el(
    'dialog',
    { class: 'card shortcuts', 'aria-labelledby': 'shortcuts-title' },
    el('header', {}, el('h2', { id: 'shortcuts-title' }, t('shortcuts')), close),
    el('dl', {}, ...rows),
    el('label', { class: 'check' }, box, t('shortcutsUse')),
  );
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
