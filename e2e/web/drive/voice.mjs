// A sound that noise suppression takes for a voice and speaker detection for speech: a rich tone whose
// pitch and loudness move as syllables do. Made here, so that no recording lies in the repository.

const RATE = 48_000;
const SECONDS = 4;
/** Syllables a second; SECONDS holds a whole number of them, so that the loop does not click. */
const SYLLABLES = 4;
const HARMONICS = 12;

/** A WAV file, 16 bit, mono, that can be played over and over. */
export function voice() {
  const count = RATE * SECONDS;
  const data = Buffer.alloc(44 + count * 2);
  data.write('RIFF', 0);
  data.writeUInt32LE(36 + count * 2, 4);
  data.write('WAVEfmt ', 8);
  data.writeUInt32LE(16, 16);
  data.writeUInt16LE(1, 20);
  data.writeUInt16LE(1, 22);
  data.writeUInt32LE(RATE, 24);
  data.writeUInt32LE(RATE * 2, 28);
  data.writeUInt16LE(2, 32);
  data.writeUInt16LE(16, 34);
  data.write('data', 36);
  data.writeUInt32LE(count * 2, 40);
  let phase = 0;
  for (let i = 0; i < count; i += 1) {
    const at = i / RATE;
    const pitch = 140 + 40 * Math.sin(2 * Math.PI * at) + 15 * Math.sin(2 * Math.PI * 3 * at);
    phase += (2 * Math.PI * pitch) / RATE;
    let sample = 0;
    for (let h = 1; h <= HARMONICS; h += 1) sample += Math.sin(h * phase) / h;
    const loudness = 0.35 + 0.65 * Math.sin(Math.PI * SYLLABLES * at) ** 2;
    data.writeInt16LE(Math.round(sample * loudness * 7000), 44 + i * 2);
  }
  return data;
}
