// One upload by one request. The page knows a transfer by `start`, `abort`, and its events: `progress(bytes, total)`,
// `done(answer)` and `failed(status, text, seconds)`, the status 0 where there was no answer, and the seconds after
// which the server wants to be asked again, or 0.
import { authorization } from "./common.js";

export class Transfer {
  constructor(request, events) {
    this.request = request;
    this.events = events;
  }

  async start() {
    const { method, url, body } = this.request;
    const headers = body instanceof FormData ? {} : { "Content-Type": "application/octet-stream" };
    this.finish(await this.ask(method, url, headers, body, (...sent) => this.events.progress(...sent)));
  }

  // Returns a request when it is answered or has failed; never after `abort`.
  ask(method, url, headers = {}, body = null, progress = null) {
    return new Promise((resolve) => {
      const xhr = (this.xhr = new XMLHttpRequest());
      if (progress) xhr.upload.onprogress = ({ loaded, total }) => progress(loaded, total);
      xhr.onload = xhr.onerror = () => resolve(xhr);
      xhr.open(method, url);
      for (const [name, value] of Object.entries({ Accept: "application/json", ...headers, ...authorization() }))
        xhr.setRequestHeader(name, value);
      xhr.send(body);
    });
  }

  finish(xhr) {
    let answer;
    try {
      answer = xhr.status >= 200 && xhr.status <= 299 && JSON.parse(xhr.responseText);
    } catch {
      // Not from filestoraged.
    }
    if (answer) this.events.done(answer);
    else this.events.failed(xhr.status, xhr.responseText, Number(xhr.getResponseHeader("Retry-After")) || 0);
  }

  abort() {
    this.xhr?.abort();
  }
}
