// The page begins here: which room, the lobby, the meeting, its end. One view at a time.

import { LogLevel, setLogLevel } from 'livekit-client';

import { installHook } from './diagnostics';
import { putWords } from './dom';
import { endingOf, endingView, failureOf } from './ending';
import type { Ending } from './ending';
import { describeToken, identityFor, readAddress, roomName } from './entry';
import type { Entry, Ticket } from './entry';
import { startLanguage } from './language';
import { Lobby } from './lobby';
import type { Choice } from './lobby';
import { Meeting } from './meeting';
import './styles/base.css';
import './styles/lobby.css';
import './styles/meeting.css';

const app = document.getElementById('app') as HTMLElement;
const hook = installHook();
/** Where the dev server, and only it, hands out tokens. */
const TOKEN_PATH = './dev/token';

function replaceView(view: HTMLElement): void {
  app.replaceChildren(view);
  putWords(document);
}

/** Whether the server that gave the page also gives tokens, as a dev server does. */
async function tokensAreServed(): Promise<boolean> {
  try {
    const answer = await fetch(`${TOKEN_PATH}?room=probe&identity=probe`);
    const kind = answer.headers.get('content-type') ?? '';
    return answer.ok && kind.includes('json');
  } catch {
    return false;
  }
}

async function fetchTicket(room: string, name: string): Promise<Ticket> {
  const identity = identityFor(name, crypto.randomUUID());
  const query = new URLSearchParams({ room, identity, name });
  const answer = await fetch(`${TOKEN_PATH}?${query.toString()}`);
  if (!answer.ok) throw new Error(`the dev server answered ${answer.status} to a token request`);
  return (await answer.json()) as Ticket;
}

function showEnding(ending: Ending, acts: Parameters<typeof endingView>[1]): void {
  const view = endingView(ending, acts);
  replaceView(view);
  view.querySelector('h1')?.focus();
}

async function enter(
  ticket: Ticket,
  choice: Pick<Choice, 'audio' | 'video'> | null,
  again: () => void,
  link: (() => string) | null,
): Promise<void> {
  const another = link === null ? undefined : () => void begin({ kind: 'form', room: '', name: '' });
  const meeting = new Meeting(hook, link, (reason) => {
    meeting.remove();
    showEnding(endingOf(reason), { again, another });
  });
  try {
    await meeting.join(ticket, choice);
    replaceView(meeting.element);
    meeting.focus();
  } catch (error) {
    console.warn('the meeting did not begin', error);
    choice?.audio?.stop();
    choice?.video?.stop();
    meeting.remove();
    showEnding(failureOf(error, ticket.url), { again, another });
  }
}

function showLobby(options: ConstructorParameters<typeof Lobby>[0]): void {
  const lobby = new Lobby({
    ...options,
    onJoin(choice) {
      options.onJoin(choice);
      // Removed when the next view replaces it; only its hold on the page's events ends here.
      leaving = lobby;
    },
  });
  replaceView(lobby.element);
  void lobby.open();
}

let leaving: Lobby | null = null;

function ticketLobby(ticket: Ticket): void {
  const { room, name } = describeToken(ticket.token);
  const again = (): void => ticketLobby(ticket);
  showLobby({
    editable: false,
    room,
    name,
    onJoin: (choice) => void enter(ticket, choice, again, null).finally(letGo),
  });
}

function formLobby(room: string, name: string): void {
  showLobby({
    editable: true,
    room,
    name,
    onJoin: (choice) => void enterByName(choice).finally(letGo),
  });
}

function letGo(): void {
  leaving?.remove();
  leaving = null;
}

async function enterByName(choice: Choice): Promise<void> {
  const room = roomName(choice.room) || 'meeting';
  const again = (): void => formLobby(room, choice.name);
  const link = (): string => `${location.origin}${location.pathname}#room=${encodeURIComponent(room)}`;
  try {
    const ticket = await fetchTicket(room, choice.name);
    await enter(ticket, choice, again, link);
  } catch (error) {
    console.warn('no token', error);
    const values = { url: location.host };
    showEnding({ title: 'errorTitle', text: 'unreachable', values }, { again });
  }
}

async function begin(entry: Entry): Promise<void> {
  if (entry.kind === 'ticket') {
    ticketLobby(entry.ticket);
  } else if (entry.kind === 'bad') {
    showEnding({ title: 'errorTitle', text: entry.reason === 'url' ? 'badUrl' : 'badToken' }, {});
  } else if (await tokensAreServed()) {
    formLobby(entry.room, entry.name);
  } else {
    showEnding({ title: 'errorTitle', text: 'noEntry' }, {});
  }
}

function takeAddress(): Entry {
  const entry = readAddress(location);
  // A token in the address bar would be in every screenshot and in the history.
  if (entry.kind !== 'form') history.replaceState(null, '', location.pathname + location.search);
  return entry;
}

startLanguage();
setLogLevel(LogLevel.warn);
window.addEventListener('hashchange', () => {
  if (hook.room === null) void begin(takeAddress());
});
void begin(takeAddress());
