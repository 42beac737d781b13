// The page that uploads files, or makes drops of them.
import { askForToken, byId, copy, linkTo, needsToken, onToken, page, sentence } from "./common.js";
import { History } from "./history.js";
import { ResumableTransfer, isWorthwhile, keyOf, unfinished } from "./resumable.js";
import { Transfer } from "./transfer.js";

const { kind, mount, algorithm } = page.dataset;
const limit = Number(page.dataset.limit) || Infinity;

// Transfers at the same time: more would not be faster.
const IN_FLIGHT = 3;
// Attempts after a lost connection, and the seconds before each. What goes on where it stopped repeats the last.
const WAITS = [1, 2, 4, 8, 15, 30];
// Statuses after which it is tried again, some of them a proxy's; and the seconds until a locked upload is.
const PASSING = [0, 408, 502, 503, 504];
const LOCKED = 2;
// Milliseconds between two updates of a row, and over which a rate is smoothed.
const UPDATE = 250;
const SMOOTHING = 3000;

// States.
const ENDED = ["done", "failed", "cancelled"];

const uploads = [];

function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  const unit = Math.min(4, Math.floor(Math.log2(bytes) / 10));
  const units = bytes / 1024 ** unit;
  return `${units < 10 ? units.toFixed(1) : Math.round(units)} ${"KMGT"[unit - 1]}iB`;
}

function time(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}

const percent = (bytes, total) => `${Math.floor((100 * bytes) / total)} %`;

class Upload {
  constructor(file, password) {
    this.file = file;
    this.password = password;
    this.name = file.name || "pasted";
    this.attempt = 0;
    this.row = byId("transfer").content.firstElementChild.cloneNode(true);
    this.part(".name").textContent = this.name;
    this.part(".size").textContent = size(file.size);
    this.bar = this.part("progress");
    this.label("progress", `Progress of ${this.name}`);
    this.label(".cancel", `Cancel ${this.name}`).onclick = () => this.cancel();
    this.label(".retry", `Try again: ${this.name}`).onclick = () => {
      this.attempt = 0;
      this.retry();
    };
    const isResumable = kind === "files" && isWorthwhile(file);
    this.transfer = new (isResumable ? ResumableTransfer : Transfer)(this.request(), this);
    byId("list").prepend(this.row);
    byId("transfers").hidden = false;
    uploads.push(this);
    this.wait();
  }

  remove() {
    this.row.remove();
    uploads.splice(uploads.indexOf(this), 1);
  }

  part(selector) {
    return this.row.querySelector(selector);
  }

  label(selector, text) {
    this.part(selector).ariaLabel = text;
    return this.part(selector);
  }

  show(state, text, tone = "") {
    this.state = state;
    this.row.dataset.state = state;
    this.part(".state").textContent = text;
    this.part(".state").className = `state ${tone}`;
    this.part(".cancel").hidden = ENDED.includes(state);
    this.part(".retry").hidden = !["failed", "cancelled", "paused"].includes(state);
    this.bar.hidden = ["done", "cancelled"].includes(state);
  }

  // An earlier page has sent so much.
  offer(bytes) {
    byId("list").append(this.row);
    this.bar.value = bytes / this.file.size;
    this.show("offered", `Choose this file again: it goes on at ${percent(bytes, this.file.size)}.`);
  }

  wait() {
    this.show("waiting", "Waiting for its turn");
  }

  send() {
    this.sent = 0;
    this.rate = 0;
    this.at = performance.now();
    this.bar.value = 0;
    this.resumed = "";
    this.show("sending", "Sending…");
    this.transfer.start();
    if (kind === "files" && byId("hashing").checked) this.hash ??= hashOf(this.file, (worker) => (this.worker = worker));
  }

  request() {
    if (kind === "files") return { method: "POST", url: mount, body: this.file };
    const body = new FormData();
    if (this.password) body.append("password", this.password);
    body.append("file", this.file, this.name);
    return { method: "PUT", url: `${mount}file`, body };
  }

  // So much is on the server's disk.
  stored(bytes, isFirst) {
    if (bytes > this.safe) this.attempt = 0;
    this.safe = bytes;
    if (!isFirst || !bytes) return;
    this.sent = bytes;
    this.bar.value = bytes / this.file.size;
    const text = `Goes on at ${percent(bytes, this.file.size)}`;
    this.resumed = `${text} · `;
    this.show("sending", text);
    say(`${this.name}: ${text}`);
  }

  progress(bytes, total) {
    const now = performance.now();
    if (now - this.at < UPDATE && bytes < total) return;
    const elapsed = now - this.at;
    const current = ((bytes - this.sent) / Math.max(1, elapsed)) * 1000;
    this.rate = this.rate ? this.rate + (current - this.rate) * Math.min(1, elapsed / SMOOTHING) : current;
    [this.sent, this.at] = [bytes, now];
    this.bar.value = total ? bytes / total : 1;
    if (bytes >= total) return this.show("sending", "Sent. The server writes it to its disk…");
    const left = this.rate > 0 ? ` · ${time((total - bytes) / this.rate)} left` : "";
    this.show("sending", `${this.resumed}${size(bytes)} of ${size(total)} · ${size(this.rate)}/s${left}`);
  }

  async done(answer) {
    const link = kind === "files" ? fileLink(answer.hash, this.name) : dropLink(answer.url);
    this.show("done", kind === "files" ? "Stored" : "Ready. This link is shown once, and works once.", "good");
    const field = this.label(".link", `Link to ${this.name}`);
    field.value = link;
    field.onfocus = () => field.select();
    this.label(".copy", `Copy link to ${this.name}`).onclick = () => copy(link, this.part(".copy"));
    this.part(".result").hidden = false;
    if (kind === "files") {
      this.detail(`${algorithm.toUpperCase().replace(/^SHA(?=\d)/, "SHA-")} of the server`, answer.hash);
      stored.add({ name: this.name, size: this.file.size, hash: answer.hash, link, time: Date.now() });
      this.compare(answer.hash);
    } else if (this.password) {
      this.detail("Password", this.password);
    }
    say(`${this.name} is stored.`);
    next();
  }

  async compare(hash) {
    if (!this.hash) return;
    const own = this.detail("SHA-256 of this browser", "computing…");
    const computed = await this.hash;
    own.textContent = computed ?? "The file cannot be read any more.";
    if (!computed || algorithm !== "sha256") return;
    if (computed === hash) this.show("done", "Stored. Both hashes are equal.", "good");
    else this.show("done", "The hashes differ: the server has other bytes than this browser read.", "bad");
  }

  detail(title, text) {
    const [name, value] = [document.createElement("dt"), document.createElement("dd")];
    [name.textContent, value.textContent] = [title, text];
    this.part("dl").append(name, value);
    return value;
  }

  async failed(status, text, seconds) {
    const readable = status !== 0 || (await isReadable(this.file));
    // Cancelled meanwhile.
    if (this.state !== "sending") return;
    if (status === 401) {
      const canAsk = askForToken(sentence(status));
      this.show("paused", canAsk ? sentence(status) : "A token is required. Load this page again to enter it.");
    } else if (!readable) {
      this.fail("The file cannot be read: it was changed or removed, or it is a folder.");
    } else if (status === 423) {
      this.again(sentence(status), LOCKED);
    } else if (PASSING.includes(status) && (this.attempt < WAITS.length || this.transfer.isResumable)) {
      this.again(sentence(status, text), Math.max(seconds, WAITS[this.attempt++] ?? WAITS.at(-1)));
    } else {
      this.fail(sentence(status, text));
    }
    next();
  }

  fail(text) {
    this.stopHashing();
    this.show("failed", text, "bad");
    say(`${this.name} failed. ${text}`);
  }

  again(reason, seconds) {
    this.show("paused", `${reason} Trying again in ${seconds} s.`, "bad");
    say(`${this.name}: ${reason}`);
    this.timer = setTimeout(() => (seconds > 1 ? this.again(reason, seconds - 1) : this.retry()), 1000);
  }

  retry() {
    clearTimeout(this.timer);
    this.wait();
    next();
  }

  cancel() {
    clearTimeout(this.timer);
    this.transfer.abort();
    this.transfer.discard?.();
    if (this.state === "offered") return this.remove();
    this.stopHashing();
    this.attempt = 0;
    this.show("cancelled", "Cancelled");
    next();
  }

  stopHashing() {
    this.worker?.terminate();
    this.hash = this.worker = undefined;
  }
}

function hashOf(file, started) {
  return new Promise((resolve) => {
    const worker = new Worker(new URL("sha256.js", import.meta.url));
    started(worker);
    worker.onmessage = ({ data }) => {
      worker.terminate();
      resolve(data);
    };
    worker.onerror = () => resolve(null);
    worker.postMessage(file);
  });
}

const isReadable = (file) => file.slice(0, 1).arrayBuffer().then(() => true, () => false);

const fileLink = (hash, name) => linkTo(`${hash}?name=${encodeURIComponent(name)}`);
const dropLink = (url) => linkTo(`drop/${url.slice(url.lastIndexOf("/") + 1)}`);

function say(text) {
  byId("said").textContent = text;
}

function next() {
  if (needsToken()) return askForToken();
  let free = IN_FLIGHT - uploads.filter(({ state }) => state === "sending").length;
  for (const upload of uploads) {
    if (free > 0 && upload.state === "waiting") {
      upload.send();
      free--;
    }
  }
}

function add(files) {
  const password = byId("password")?.value ?? "";
  for (const file of files) {
    const earlier = find(file);
    if (earlier?.state === "offered") earlier.remove();
    const upload = new Upload(file, password);
    if (file.size > limit) upload.fail(`It has ${size(file.size)}: this server takes ${size(limit)} at most.`);
  }
  next();
}

const find = (file) => uploads.find((each) => keyOf(each.file) === keyOf(file));

// Shows the uploads that were left when a page was closed.
async function offerUnfinished() {
  for await (const { file, bytes } of unfinished()) if (!find(file)) new Upload(file).offer(bytes);
}

function listen() {
  const zone = byId("zone");
  const input = byId("file");
  document.documentElement.classList.add("scripted");
  input.multiple = true;
  input.required = false;
  input.onchange = () => {
    add([...input.files]);
    // The same file can be chosen again.
    input.value = "";
  };
  let depth = 0;
  const over = (change) => (event) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0);
    event.preventDefault();
  };
  document.ondragenter = over(1);
  document.ondragleave = over(-1);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    depth = 0;
    over(0)(event);
    add([...event.dataTransfer.files]);
  };
  document.onpaste = (event) => {
    const { files } = event.clipboardData;
    if (files.length) add([...files]);
  };
  byId("upload").onsubmit = (event) => event.preventDefault();
  byId("clear").onclick = () => {
    for (const upload of uploads.filter(({ state }) => ENDED.includes(state))) upload.remove();
  };
  addEventListener("beforeunload", (event) => {
    if (uploads.some(({ state }) => ["sending", "waiting", "paused"].includes(state))) event.preventDefault();
  });
  onToken(() => {
    for (const upload of uploads) if (upload.state === "paused") upload.retry();
    next();
    offerUnfinished();
  });
}

// 120 bits, in characters that are not mistaken for one another.
function generate() {
  const letters = "abcdefghijkmnpqrstuvwxyz23456789";
  const drawn = crypto.getRandomValues(new Uint8Array(24));
  byId("password").value = Array.from(drawn, (byte) => letters[byte % 32]).join("").replace(/.{6}(?!$)/g, "$&-");
}

const stored = new History(`filestoraged ${new URL(mount, location).pathname}`);
listen();
if (kind === "files") stored.show();
if (byId("generate")) {
  byId("generate").hidden = false;
  byId("generate").onclick = generate;
}
if (needsToken()) askForToken();
else offerUnfinished();
