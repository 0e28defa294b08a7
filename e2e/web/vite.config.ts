// Builds the page into static files with relative paths: a media node serves them at `/`, a gateway
// at `/meet/`. Nothing is fetched from anywhere else.
import { defineConfig } from 'vite';

export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    // One script: the SDK is nearly all of it, and a second one would only cost a round trip.
    chunkSizeWarningLimit: 900,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
