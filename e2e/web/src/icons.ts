// The page's own pictograms, drawn as strokes on a 24-pixel grid, so that nothing is fetched and they
// take the colour of the text around them.

const PATHS = {
  mic: 'M12 3a3 3 0 0 0-3 3v6a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3ZM5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3.2',
  micOff:
    'M9 9v3a3 3 0 0 0 4.6 2.5M15 11V6a3 3 0 0 0-5.8-1M5.5 11.5a6.5 6.5 0 0 0 10.2 5.3M18.3 13a6.4 6.4 0 0 0 .2-1.5M12 18v3.2M3.5 3.5l17 17',
  camera: 'M3 7.5A1.5 1.5 0 0 1 4.5 6h9A1.5 1.5 0 0 1 15 7.5v9a1.5 1.5 0 0 1-1.5 1.5h-9A1.5 1.5 0 0 1 3 16.5ZM15 10.5l6-3v9l-6-3',
  cameraOff:
    'M7.5 6h6A1.5 1.5 0 0 1 15 7.5v6M15 15.5v1a1.5 1.5 0 0 1-1.5 1.5h-9A1.5 1.5 0 0 1 3 16.5v-9A1.5 1.5 0 0 1 4.5 6M15 10.5l6-3v9l-3-1.5M3.5 3.5l17 17',
  screen: 'M3 5.5h18v11H3ZM9 20.5h6M12 16.5v4M12 13.5v-5M9.5 10.7 12 8.2l2.5 2.5',
  chat: 'M4 5h16v11H10l-4.5 3.6V16H4Z',
  people:
    'M9 11a3.2 3.2 0 1 0 0-6.4A3.2 3.2 0 0 0 9 11ZM2.8 19.5c.4-3.6 2.9-5.6 6.2-5.6s5.800 2 6.200 5.600M16 10.800a2.900 2.900 0 1 0-1.200-5.500M17.300 14.100c2.200.5 3.600 2.300 3.900 5.400',
  gauge: 'M4 18a9 9 0 1 1 16 0M12 14l4-5M12 15.200a1.200 1.200 0 1 0 0-2.400 1.200 1.200 0 0 0 0 2.400Z',
  help: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM9.500 9.300a2.600 2.600 0 1 1 3.700 2.600c-.8.400-1.200 1-1.200 1.900M12 16.900v.100',
  leave: 'M3 14.500c0-2.500 4-4.500 9-4.500s9 2 9 4.500v2l-4.500.900-1-3c-1-.5-2.200-.7-3.500-.7s-2.500.200-3.500.700l-1 3L3 16.500Z',
  close: 'M6 6l12 12M18 6 6 18',
  send: 'M4 12 20 4.500 15.500 20l-4-6.500ZM11.500 13.500 20 4.500',
  sound: 'M4 9.500v5h3.500L12 18.500v-13L7.500 9.500ZM15.500 9a4.200 4.200 0 0 1 0 6M18 6.500a7.800 7.800 0 0 1 0 11',
} as const;

export type IconName = keyof typeof PATHS;

const SVG = 'http://www.w3.org/2000/svg';

/** A pictogram; silent for screen readers, the control around it has the words. */
export function icon(name: IconName): SVGSVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/** The sign of the house: the seats of an assembly around its speaker. */
export function emblem(rows = 3): SVGSVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 64 36');
  svg.setAttribute('class', 'emblem');
  svg.setAttribute('aria-hidden', 'true');
  const seat = (x: number, y: number, radius: number, opacity: number): void => {
    const circle = document.createElementNS(SVG, 'circle');
    circle.setAttribute('cx', x.toFixed(2));
    circle.setAttribute('cy', y.toFixed(2));
    circle.setAttribute('r', radius.toFixed(2));
    circle.setAttribute('opacity', opacity.toFixed(2));
    svg.append(circle);
  };
  seat(32, 32, 3.4, 1);
  for (let row = 0; row < rows; row += 1) {
    const seats = 5 + row * 2;
    const radius = 11.5 + row * 8;
    for (let i = 0; i < seats; i += 1) {
      const angle = Math.PI * (i / (seats - 1));
      const seatRadius = 2.3;
      seat(32 - radius * Math.cos(angle), 32 - radius * Math.sin(angle), seatRadius, 1 - row * 0.24);
    }
  }
  return svg;
}
