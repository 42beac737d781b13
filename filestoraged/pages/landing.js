// The landing page of a drop. The form works without this script, which adds the token, what became of the file, and the
// seconds until a locked drop opens.
import { askForToken, authorization, byId, copy, needsToken, onToken, page, sentence } from "./common.js";

const form = byId("fetch");
const link = byId("link");

// Milliseconds between two questions whether the file has arrived, and their number.
const POLL = 1000;
const POLLS = 60;

// Forms cannot send the header of a token.
async function fetchWithToken() {
  const button = form.querySelector("button");
  button.disabled = true;
  // A password goes into the body, and into no address.
  const body = new URLSearchParams(new FormData(form));
  try {
    const answer = await fetch(form.action, { method: "POST", body, headers: authorization(), credentials: "omit" });
    if (answer.ok) return save(await answer.blob());
    const text = await answer.text();
    const isPage = answer.headers.get("Content-Type")?.startsWith("text/html");
    if (answer.status === 401 && !isPage) askForToken(sentence(401));
    else if (answer.status === 401) fault("The password is missing or wrong.");
    else fault(sentence(answer.status, text));
  } catch {
    fault(sentence(0));
  } finally {
    button.disabled = false;
  }
}

function save(blob) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = page.dataset.name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
  ended();
}

function fault(text) {
  byId("fetch-error").hidden = !text;
  byId("fetch-error").textContent = text;
}

function ended() {
  const text = document.createElement("p");
  text.className = "card good";
  text.role = "status";
  text.textContent = "The file was fetched. The link is used up.";
  form.replaceWith(text);
}

// Only the server can tell that the file has arrived.
async function watch() {
  for (let poll = 0; poll < POLLS && form.isConnected; poll++) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    const answer = await fetch(form.action, { credentials: "omit" }).catch(() => null);
    if (answer?.status === 410) return ended();
  }
}

function countDown(seconds) {
  const text = document.querySelector(".lead");
  text.textContent = seconds > 0 ? `Too many wrong passwords. Try again in ${seconds} s.` : "Try again now.";
  if (seconds > 0) return setTimeout(() => countDown(seconds - 1), 1000);
  const anchor = document.createElement("a");
  anchor.href = location.href;
  anchor.textContent = "Back to the file";
  text.after(anchor);
}

if (form) {
  form.onsubmit = (event) => {
    fault("");
    if (page.dataset.needsToken !== "yes") return void watch();
    event.preventDefault();
    if (needsToken()) askForToken();
    else fetchWithToken();
  };
  onToken(() => form.requestSubmit());
}
if (link) {
  const button = byId("copy");
  button.hidden = false;
  button.onclick = () => copy(link.value, button);
  link.onfocus = () => link.select();
}
if (page.dataset.retry) countDown(Number(page.dataset.retry));
