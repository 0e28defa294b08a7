// The stage: keeps one tile per participant and per shared screen, and lays them out. A shared screen
// takes the stage; two people see each other large; more become a grid. Invariant: the tiles are what
// the room says, whatever order events came in, because every change looks at the whole room.

import { Track } from 'livekit-client';
import type { Participant, Room } from 'livekit-client';

import { el, setAttribute } from './dom';
import { gridOf } from './grid';
import { Tile } from './tile';
import type { TileSource } from './tile';

const GAP = 12;
/** Below this width faces are not seen; the grid scrolls instead, and tiles out of sight cost nothing. */
const NARROWEST = 180;

type Arrangement = 'alone' | 'pair' | 'grid' | 'share';

export class Stage {
  readonly element: HTMLElement;
  private readonly list = el('ul', { class: 'tiles', 'data-t-label': 'tiles', tabindex: -1 });
  private readonly tiles = new Map<string, Tile>();
  private readonly sounds = el('div', { hidden: true });
  private readonly heard = new Map<string, { track: Track; element: HTMLMediaElement }>();
  private readonly watch: ResizeObserver;
  private arrangement: Arrangement = 'alone';

  constructor(private readonly room: Room) {
    this.element = el('section', { class: 'stage' }, this.list, this.sounds);
    this.watch = new ResizeObserver(() => this.arrange());
    this.watch.observe(this.list);
  }

  /** Brings every tile and sound up to date with the room. */
  refresh(): void {
    const wanted = new Map<string, { participant: Participant; source: TileSource }>();
    for (const participant of this.participants()) {
      const screen = participant.getTrackPublication(Track.Source.ScreenShare);
      if (screen !== undefined && !screen.isMuted && (participant.isLocal || screen.track)) {
        const source = Track.Source.ScreenShare as const;
        wanted.set(`${participant.sid}/${source}`, { participant, source });
      }
      const source = Track.Source.Camera as const;
      wanted.set(`${participant.sid}/${source}`, { participant, source });
    }
    for (const [key, tile] of this.tiles) {
      // The same person with a new connection is a new object behind an old name.
      if (wanted.get(key)?.participant !== tile.participant) {
        tile.remove();
        this.tiles.delete(key);
      }
    }
    let position = 0;
    for (const [key, { participant, source }] of wanted) {
      let tile = this.tiles.get(key);
      if (tile === undefined) {
        tile = new Tile(participant, source);
        this.tiles.set(key, tile);
      } else {
        tile.refresh();
      }
      if (this.list.children[position] !== tile.element) {
        this.list.insertBefore(tile.element, this.list.children[position] ?? null);
      }
      position += 1;
    }
    this.refreshSounds();
    this.arrange();
  }

  /** Shared screens first, then others by arrival, oneself last. */
  private participants(): Participant[] {
    const others = [...this.room.remoteParticipants.values()];
    const since = (p: Participant): number => p.joinedAt?.getTime() ?? 0;
    others.sort((a, b) => since(a) - since(b) || (a.identity < b.identity ? -1 : 1));
    return [...others, this.room.localParticipant];
  }

  private refreshSounds(): void {
    const wanted = new Map<string, Track>();
    for (const participant of this.room.remoteParticipants.values()) {
      for (const publication of participant.audioTrackPublications.values()) {
        if (publication.track) wanted.set(publication.trackSid, publication.track);
      }
    }
    for (const [sid, { track, element }] of this.heard) {
      if (wanted.get(sid) !== track) {
        track.detach(element);
        element.remove();
        this.heard.delete(sid);
      }
    }
    for (const [sid, track] of wanted) {
      if (this.heard.has(sid)) continue;
      const element = track.attach();
      this.sounds.append(element);
      this.heard.set(sid, { track, element });
    }
  }

  private arrange(): void {
    const tiles = [...this.tiles.values()];
    const shared = tiles.filter((tile) => tile.source === Track.Source.ScreenShare);
    const people = tiles.length - shared.length;
    if (shared.length > 0) this.arrangement = 'share';
    else if (people === 1) this.arrangement = 'alone';
    else this.arrangement = people === 2 ? 'pair' : 'grid';
    setAttribute(this.list, 'data-arrangement', this.arrangement);
    const first = shared[0];
    for (const tile of tiles) tile.element.classList.toggle('leading', tile === first);
    const { clientWidth: width, clientHeight: height } = this.list;
    let grid = gridOf(this.arrangement === 'grid' ? people : 1, width, height, GAP);
    if (this.arrangement === 'grid' && grid.tileWidth < NARROWEST) {
      const columns = Math.max(1, Math.floor((width + GAP) / (NARROWEST + GAP)));
      const tileWidth = Math.floor((width - GAP * (columns - 1)) / columns);
      grid = { columns, tileWidth, tileHeight: Math.floor((tileWidth * 9) / 16) };
    }
    this.list.style.setProperty('--tile-width', `${grid.tileWidth}px`);
    this.list.style.setProperty('--tile-height', `${grid.tileHeight}px`);
  }

  /** Lets go of every picture and sound. */
  remove(): void {
    this.watch.disconnect();
    for (const tile of this.tiles.values()) tile.remove();
    for (const { track, element } of this.heard.values()) track.detach(element);
    this.tiles.clear();
    this.heard.clear();
    this.element.remove();
  }
}

