// The switch between languages. The choice stays on this machine; where the browser keeps nothing, it
// lasts as long as the page.

import { el, putWords } from './dom';
import { language, preferredLanguage, setLanguage } from './words';
import type { Language } from './words';

const KEPT = 'hemicycle.language';
/** Tells every view that the words changed. */
export const WORDS_CHANGED = 'hemicycle-words';

function kept(): string | null {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function use(to: Language): void {
  setLanguage(to);
  document.documentElement.lang = to;
}

/** Takes the language chosen earlier, or the browser's. */
export function startLanguage(): void {
  const earlier = kept();
  use(preferredLanguage(earlier === null ? navigator.languages : [earlier]));
}

/** Two buttons, FR and EN. */
export function languageSwitch(): HTMLElement {
  const group = el('div', { class: 'languages', role: 'group', 'data-t-label': 'language' });
  const buttons = (['fr', 'en'] as const).map((to) => {
    const full = to === 'fr' ? 'Français' : 'English';
    const button = el('button', { type: 'button', lang: to, 'aria-label': full }, to.toUpperCase());
    button.addEventListener('click', () => {
      use(to);
      try {
        localStorage.setItem(KEPT, to);
      } catch {
        // Nothing is kept in a private window; the page works all the same.
      }
      putWords(document);
      window.dispatchEvent(new Event(WORDS_CHANGED));
    });
    return button;
  });
  const show = (): void => {
    for (const button of buttons) {
      button.setAttribute('aria-pressed', String(button.lang === language()));
    }
  };
  show();
  window.addEventListener(WORDS_CHANGED, show);
  group.append(...buttons);
  return group;
}
