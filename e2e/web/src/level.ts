// A small meter that shows that the microphone hears something. Decoration for the eye: a screen
// reader is not told, because a voice that is heard needs no words.

import { el } from './dom';

const SEGMENTS = 5;
/** Loudness of a calm voice, as root mean square of samples in -1..1. */
const CALM_VOICE = 0.12;

export class LevelMeter {
  readonly element = el('div', { class: 'meter', 'aria-hidden': 'true' });
  private context: AudioContext | undefined;
  private timer = 0;

  constructor() {
    for (let i = 0; i < SEGMENTS; i += 1) this.element.append(el('i'));
  }

  listen(track: MediaStreamTrack): void {
    this.close();
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 512;
    context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.context = context;
    this.timer = window.setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      this.show(Math.min(1, Math.sqrt(power) / CALM_VOICE));
    }, 100);
  }

  private show(level: number): void {
    [...this.element.children].forEach((segment, i) => {
      segment.classList.toggle('lit', level > i / SEGMENTS + 0.02);
    });
  }

  close(): void {
    window.clearInterval(this.timer);
    void this.context?.close();
    this.context = undefined;
    this.show(0);
  }
}
