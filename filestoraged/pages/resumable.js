// An upload in pieces by tus 1.0.0. `start` goes on where it stopped, also in a page that was loaded later. One more event
// is `stored(bytes, isFirst)`: what the server has on its disk, and whether it is the first since `start`.
import { authorization, page } from "./common.js";
import { Transfer } from "./transfer.js";

const { uploads, chunk } = page.dataset;

// Bytes. A smaller file is not worth two more requests.
const WORTHWHILE = 4 << 20;
const PIECE = Number(chunk) || Infinity;

const VERSION = { "Tus-Resumable": "1.0.0" };
const GONE = [404, 410, 460];
// Answers without progress, after which an upload ends. Requests that a browser repeats get a few.
const MOST_STALLS = 10;
// Answers of a proxy that does not pass these requests.
const NOT_PASSED = [404, 405, 501];

export const isWorthwhile = (file) => uploads && file.size > Math.min(WORTHWHILE, PIECE);

export class ResumableTransfer extends Transfer {
  isResumable = true;
  file = this.request.body;

  async start() {
    if (!this.isResumable) return super.start();
    this.isFirst = true;
    this.furthest = -1;
    this.stalls = 0;
    this.isAnew = this.isElsewhere = false;
    this.id ||= recall(this.file);
    let xhr = await (this.id ? this.ask("HEAD", uploads + this.id, VERSION) : this.create());
    while (xhr) xhr = await this.follow(xhr);
  }

  // Does what an answer asks for, and returns the next one, if any.
  follow(xhr) {
    const { status } = xhr;
    const offset = xhr.getResponseHeader("Upload-Offset");
    if (offset !== null && (status < 300 || status === 409) && this.makesSense(Number(offset)))
      return this.goOn(Number(offset), xhr);
    if (GONE.includes(status) && this.id && !this.isAnew) {
      this.isAnew = true;
      forget(this.file, this.id);
      return this.create();
    }
    this.isElsewhere = status === 423 && !this.isOwn;
    this.isResumable = !NOT_PASSED.includes(status);
    return this.isResumable ? this.finish(xhr) : super.start();
  }

  // Otherwise, the same bytes would be sent for ever.
  makesSense(offset) {
    this.stalls = offset > this.furthest ? 0 : this.stalls + 1;
    this.furthest = Math.max(offset, this.furthest);
    return offset >= 0 && offset <= this.file.size && this.stalls < MOST_STALLS;
  }

  async create() {
    const asked = this.ask("POST", uploads, { ...VERSION, "Upload-Length": this.file.size });
    const creation = (this.creation = this.xhr);
    const xhr = await asked;
    const id = xhr.getResponseHeader("Location")?.slice(-32);
    // Cancelled meanwhile.
    if (creation !== this.creation) return discard(this.file, id);
    this.id = id;
    return xhr;
  }

  goOn(offset, xhr) {
    const { file, events } = this;
    events.stored(offset, this.isFirst);
    this.isOwn = true;
    this.isFirst = false;
    this.isAnew &&= !offset;
    if (offset === file.size) return this.complete();
    keep(file, this.id, Date.parse(xhr.getResponseHeader("Upload-Expires")));
    const headers = { ...VERSION, "Content-Type": "application/offset+octet-stream", "Upload-Offset": offset };
    // Chromium reads a file twice as fast as a slice of it.
    const piece = offset || file.size > PIECE ? file.slice(offset, offset + PIECE) : file;
    return this.ask("PATCH", uploads + this.id, headers, piece, (bytes) => events.progress(offset + bytes, file.size));
  }

  async complete() {
    const xhr = await this.ask("GET", uploads + this.id);
    if (xhr.status === 200) forget(this.file, this.id);
    this.finish(xhr);
  }

  abort() {
    // Without the answer to a creation, there would be no id to remove.
    if (this.xhr !== this.creation) super.abort();
    this.creation = null;
  }

  discard() {
    // What another tab sends is left to that.
    if (!this.isElsewhere) discard(this.file, this.id);
    this.id = null;
  }
}

// The uploads of this browser, an item of `localStorage` each: by what a file is recognized, the id, when it expires.
const START = `filestoraged upload ${new URL(uploads ?? "", location).pathname} `;

export const keyOf = ({ name, size, lastModified }) => START + JSON.stringify([name, size, lastModified]);

// Returns null for a key that another page has made.
function fileOf(key) {
  try {
    const [name, size, lastModified] = JSON.parse(key.slice(START.length));
    return { name, size, lastModified };
  } catch {
    return null;
  }
}

function keep(file, id, expires) {
  try {
    if (expires) localStorage.setItem(keyOf(file), JSON.stringify({ id, expires }));
  } catch {
    // Storage is full, or switched off: the upload goes on until the page is left.
  }
}

function recall(file) {
  try {
    const { id, expires } = JSON.parse(localStorage.getItem(keyOf(file)));
    return expires > Date.now() && /^[0-9a-f]{32}$/.test(id) ? id : null;
  } catch {
    return null;
  }
}

// Unless another tab has begun it anew.
function forget(file, id) {
  if (recall(file) === id) localStorage.removeItem(keyOf(file));
}

// The files that can be continued, each with the bytes that the server has. Forgets the others.
export async function* unfinished() {
  for (const key of keys()) {
    const file = fileOf(key);
    const id = file && recall(file);
    const answer = id && (await askFor("HEAD", id));
    const bytes = Number(answer?.headers.get("Upload-Offset"));
    if (!id || GONE.includes(answer?.status)) localStorage.removeItem(key);
    else if (bytes && bytes < file.size) yield { file, bytes };
  }
}

function keys() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(START));
  } catch {
    return [];
  }
}

function discard(file, id) {
  id ||= recall(file);
  forget(file, id);
  if (id) askFor("DELETE", id);
}

// Returns null without an answer. A request that was cut may hold the upload for 5 s.
async function askFor(method, id) {
  for (let attempts = 1; ; attempts++) {
    const request = { method, headers: { ...VERSION, ...authorization() }, keepalive: true };
    const answer = await fetch(uploads + id, request).catch(() => null);
    if ((answer && answer.status !== 423) || attempts === 10) return answer;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
