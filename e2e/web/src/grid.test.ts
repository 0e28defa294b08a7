import { describe, expect, it } from 'vitest';

import { gridOf, hueOf, initials } from './grid';

describe('the grid', () => {
  it('never overflows and leaves no better one out', () => {
    for (let count = 1; count <= 60; count += 1) {
      for (const [width, height] of [[1280, 720], [390, 800], [2000, 500]] as const) {
        const { columns, tileWidth, tileHeight } = gridOf(count, width, height, 12);
        const rows = Math.ceil(count / columns);
        expect(columns * tileWidth + (columns - 1) * 12).toBeLessThanOrEqual(width);
        expect(rows * tileHeight + (rows - 1) * 12).toBeLessThanOrEqual(height);
        expect(tileWidth).toBeGreaterThan(0);
      }
    }
    expect(gridOf(4, 1280, 720, 12).columns).toBe(2);
    expect(gridOf(2, 390, 800, 12).columns).toBe(1);
  });

  it('has no negative tiles in no room', () => {
    expect(gridOf(3, 0, 0, 12).tileWidth).toBe(0);
    expect(gridOf(0, 100, 100, 12).columns).toBe(1);
  });
});

describe('avatars', () => {
  it('shortens names of any script', () => {
    expect(initials('Anne-Marie Le Goff')).toBe('AG');
    expect(initials('élodie')).toBe('É');
    expect(initials('王小明')).toBe('王');
    expect(initials('  ')).toBe('?');
  });

  it('gives a person one colour for ever', () => {
    expect(hueOf('alice')).toBe(hueOf('alice'));
    expect(hueOf('alice')).not.toBe(hueOf('bob'));
    expect(hueOf('')).toBeGreaterThanOrEqual(0);
  });
});
