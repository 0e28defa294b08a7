// Makes elements in one expression. Text is only ever set as text, never as markup, so that a name or
// a chat message cannot become code.

import { t } from './words';
import type { Key } from './words';

type Child = Node | string | null | undefined | false;
type Attributes = Record<string, string | number | boolean | null | undefined | EventListener>;

/** An element with attributes (`onclick` and the like are listeners) and children. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') {
      element.addEventListener(name.replace(/^on/, ''), value);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  element.append(...children.filter((c): c is Node | string => c instanceof Node || !!c));
  return element;
}

/** Sets an attribute only when it changed, so that screen readers are not told the same again. */
export function setAttribute(element: Element, name: string, value: string | null): void {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) {
    element.setAttribute(name, value);
  }
}

/** Sets the text only when it changed. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Writes the words of the language in use into `root`: `data-t` is text, `data-t-label` a label. */
export function putWords(root: ParentNode): void {
  for (const element of root.querySelectorAll<HTMLElement>('[data-t]')) {
    setText(element, t(element.dataset['t'] as Key));
  }
  for (const element of root.querySelectorAll<HTMLElement>('[data-t-label]')) {
    setAttribute(element, 'aria-label', t(element.dataset['tLabel'] as Key));
  }
}
