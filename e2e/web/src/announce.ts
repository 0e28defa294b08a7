// Says to a screen reader what the eye sees happen. Two live regions stand in index.html: one waits
// for a pause, one interrupts, which only a lost connection may.

import { setText } from './dom';

/** How long a sentence stays, so that the same one can be said again later. */
const STAYS_MS = 4000;

function say(id: 'polite' | 'assertive', sentence: string): void {
  const region = document.getElementById(id);
  if (region === null) return;
  // Two things at once: the second must not swallow the first.
  const told = region.textContent ?? '';
  setText(region, told === '' || id === 'assertive' ? sentence : `${told}. ${sentence}`);
  window.setTimeout(() => {
    if ((region.textContent ?? '').endsWith(sentence)) region.textContent = '';
  }, STAYS_MS);
}

export function announce(sentence: string): void {
  say('polite', sentence);
}

export function alarm(sentence: string): void {
  say('assertive', sentence);
}
