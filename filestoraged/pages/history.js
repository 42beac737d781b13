// What this browser stored before, in `localStorage`.
import { byId, copy } from "./common.js";

// Entries, the latest first.
const MAX_ENTRIES = 200;

export class History {
  constructor(key) {
    this.key = key;
    byId("forget").onclick = () => this.save([]);
  }

  entries() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.key));
      return Array.isArray(kept) ? kept : [];
    } catch {
      return [];
    }
  }

  add(entry) {
    const others = this.entries().filter(({ link }) => link !== entry.link);
    this.save([entry, ...others].slice(0, MAX_ENTRIES));
  }

  save(entries) {
    try {
      localStorage.setItem(this.key, JSON.stringify(entries));
    } catch {
      // Storage is full, or switched off.
    }
    this.show();
  }

  show() {
    const entries = this.entries();
    byId("history").hidden = !entries.length;
    byId("stored").replaceChildren(...entries.map((entry) => this.row(entry)));
  }

  row({ name, link, time }) {
    const row = byId("entry").content.firstElementChild.cloneNode(true);
    const part = (selector) => row.querySelector(selector);
    part("a").textContent = name;
    // Whoever wrote the entry.
    if (/^https?:/.test(link)) part("a").href = link;
    part(".hint").textContent = new Date(time).toLocaleDateString();
    part(".copy").onclick = () => copy(link, part(".copy"));
    part(".copy").ariaLabel = `Copy link to ${name}`;
    part(".remove").onclick = () => this.save(this.entries().filter((each) => each.link !== link));
    part(".remove").ariaLabel = `Remove ${name} from this list`;
    return row;
  }
}
