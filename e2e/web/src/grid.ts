// How many columns a number of tiles gets. Pure: measures nothing, moves nothing.

/** Tiles keep this shape, that of most cameras. */
export const TILE_RATIO = 16 / 9;

export interface Grid {
  columns: number;
  /** Width of one tile in CSS pixels. */
  tileWidth: number;
  tileHeight: number;
}

/** The grid in which `count` tiles are largest inside `width` × `height`, with `gap` between them. */
export function gridOf(count: number, width: number, height: number, gap: number): Grid {
  let best: Grid = { columns: 1, tileWidth: 0, tileHeight: 0 };
  for (let columns = 1; columns <= Math.max(1, count); columns += 1) {
    const rows = Math.ceil(count / columns) || 1;
    const widest = (width - gap * (columns - 1)) / columns;
    const highest = (height - gap * (rows - 1)) / rows;
    const tileWidth = Math.max(0, Math.floor(Math.min(widest, highest * TILE_RATIO)));
    if (tileWidth > best.tileWidth) {
      best = { columns, tileWidth, tileHeight: Math.floor(tileWidth / TILE_RATIO) };
    }
  }
  return best;
}

/** Up to two letters that stand for a name while there is no picture. */
export function initials(name: string): string {
  const words = name.split(/[\s._-]+/).filter((word) => /\p{L}|\p{N}/u.test(word));
  const first = words[0] ?? '';
  const last = words.length > 1 ? (words[words.length - 1] ?? '') : '';
  return ([...first][0] ?? '?').toUpperCase() + ([...last][0] ?? '').toUpperCase();
}

/** A hue that stays with an identity for ever, so that people find each other again. */
export function hueOf(identity: string): number {
  let hash = 2166136261;
  for (const char of identity) {
    hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 16777619);
  }
  return (hash >>> 0) % 360;
}
