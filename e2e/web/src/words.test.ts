import { afterEach, describe, expect, it } from 'vitest';

import { ALL_WORDS, preferredLanguage, setLanguage, t } from './words';
import type { Key } from './words';

afterEach(() => setLanguage('en'));

describe('the words', () => {
  it('name the same places to fill in, in both languages', () => {
    const holes = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();
    for (const key of Object.keys(ALL_WORDS.en) as Key[]) {
      expect(holes(ALL_WORDS.fr[key]), key).toEqual(holes(ALL_WORDS.en[key]));
      expect(ALL_WORDS.fr[key].trim(), key).not.toBe('');
    }
  });

  it('follow the person’s preference', () => {
    expect(preferredLanguage(['de-DE', 'fr-CA', 'en'])).toBe('fr');
    expect(preferredLanguage(['de', 'en-GB', 'fr'])).toBe('en');
    expect(preferredLanguage(['de'])).toBe('en');
    expect(preferredLanguage([])).toBe('en');
  });

  it('are filled in as text', () => {
    setLanguage('fr');
    expect(t('hasJoined', { name: '<b>{name}</b>' })).toBe('<b>{name}</b> est arrivé·e');
    expect(t('hasLeft')).toBe('{name} est parti·e');
  });
});
