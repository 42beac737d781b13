// What the scripts of all pages share.

export const page = document.getElementById("page");
export const byId = (id) => document.getElementById(id);

// A URL below the interface, as the browser sees it or as --public-url says.
export const linkTo = (path) => (page.dataset.link ? `${page.dataset.link}/` : new URL(page.dataset.mount, location)) + path;

const SENTENCES = {
  0: "The connection to the server was lost.",
  400: "The server could not use what it received.",
  401: "A token is required, or this one is unknown.",
  403: "This is not allowed with this token, or from this page.",
  404: "There is nothing at this address.",
  405: "This is not possible here.",
  408: "The transfer was too slow.",
  409: "It is there already.",
  410: "It was fetched, or its time is over.",
  412: "It is there already.",
  413: "It is too large for this server.",
  414: "The address is too long.",
  415: "The server does not accept this type.",
  416: "There is no such part.",
  417: "The server cannot do this.",
  421: "The server does not answer by this name.",
  422: "The server could not use what it received.",
  423: "Another page is sending this file.",
  429: "Too many wrong passwords.",
  431: "The request has too many fields.",
  460: "The bytes changed on their way.",
  500: "The server failed.",
  501: "The server cannot do this.",
  503: "The server cannot do this now.",
  505: "The server cannot do this.",
  507: "The server has no room left.",
};

// What went wrong, in words: by the status, then as the server says it.
export function sentence(status, text = "") {
  let message = "";
  try {
    message = JSON.parse(text).message ?? "";
  } catch {
    // From a proxy in front.
  }
  return `${SENTENCES[status] ?? `The server answered with status ${status}.`} ${message}`.trim();
}

// Plain HTTP outside of localhost has no clipboard: what is selected is copied.
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    button.after(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    button.focus();
    if (!copied) return;
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 2000);
}

// The token, for this tab only.
const KEY = "filestoraged token";
let kept = null;

export function token() {
  try {
    return sessionStorage.getItem(KEY) ?? kept;
  } catch {
    return kept;
  }
}

export const authorization = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

export const needsToken = () => page.dataset.needsToken === "yes" && !token();

// Asks for the token, and says why. Returns whether the page can. `used` is called with each one that is given.
export function askForToken(reason = "") {
  const form = byId("token");
  // The page was made before the server asked for tokens: loaded again, it has the form.
  if (!form) return false;
  const error = byId("token-error");
  form.hidden = false;
  error.hidden = !reason;
  error.textContent = reason;
  byId("token-value").focus();
  return true;
}

export function onToken(used) {
  if (!byId("token")) return;
  byId("token").onsubmit = (event) => {
    event.preventDefault();
    const value = byId("token-value").value.trim();
    // A header has no other characters.
    if (!/^[!-~]+$/.test(value)) return askForToken("A token has letters, digits and signs, and no spaces.");
    kept = value;
    try {
      sessionStorage.setItem(KEY, value);
    } catch {
      // Storage is switched off: the page itself keeps it.
    }
    byId("token-value").value = "";
    byId("token").hidden = true;
    used();
  };
}
