// The search page: the form, the results, and which result is open. detail.js shows the open result.

import { ask, imageUrl, Refused } from "./api.js";
import { Detail } from "./detail.js";
import { bar, make, percent } from "./pieces.js";

const LOOKS = ["auto", "light", "dark"];
const element = (id) => document.getElementById(id);
const form = element("search");
const results = element("results");

let answer = null; // of the last search
let running = null; // AbortController of the pending search
let limits = { max_upload_bytes: Infinity };

const detail = new Detail({ onMove: focusHit, onSimilar: searchSimilar });

// ---- searching ----

async function search(path, body, words, picture = null) {
  running?.abort();
  const mine = (running = new AbortController());
  showBusy(words, picture);
  try {
    const found = await ask(path, body, mine.signal);
    if (running === mine) showAnswer(found, words, picture, found.mode === "fast" && body.fast === false);
  } catch (error) {
    if (running !== mine) return; // a newer search has replaced this one
    results.replaceChildren(); // they belong to another search
    showProblem(error);
  } finally {
    if (running === mine) {
      running = null;
      setBusy(false);
    }
  }
}

function searchSentence() {
  if (!form.reportValidity()) return;
  const query = element("query").value.trim();
  if (!query) return element("query").focus();
  const fast = new FormData(form).get("mode") === "fast";
  search("/api/search", { query, top: chosenTop(), fast }, `“${query}”`);
}

function searchPicture(file) {
  if (!file) return;
  if (!["image/jpeg", "image/png", "image/webp"].includes(file.type)) {
    return showProblem(new Refused("This is no picture that can be searched with: choose a JPEG, PNG or WebP file."));
  }
  if (file.size > limits.max_upload_bytes) {
    const megabytes = Math.floor(limits.max_upload_bytes / 2 ** 20);
    return showProblem(new Refused(`The picture is too large: at most ${megabytes} MB.`));
  }
  const body = new FormData();
  body.append("image", file);
  body.append("top", chosenTop());
  search("/api/search/image", body, "people like this one", URL.createObjectURL(file));
}

function searchSimilar(hit) {
  detail.close();
  const body = { image_id: hit.image_id, top: chosenTop() };
  search("/api/search/similar", body, "people like this one", imageUrl(hit, "thumbnail"));
}

const chosenTop = () => Number(element("top").value) || 20;

// ---- results ----

function setBusy(busy) {
  results.setAttribute("aria-busy", busy);
  element("status").classList.toggle("busy", busy);
}

function showBusy(words, picture) {
  element("problem").hidden = element("nothing").hidden = true;
  setBusy(true);
  showStatus(`Searching ${words} …`, picture);
}

function showStatus(text, picture) {
  const shown = [];
  if (picture) shown.push(Object.assign(new Image(), { src: picture, alt: "The picture that was searched with" }));
  element("status").replaceChildren(...shown, make("span", "", text));
}

function showProblem(error) {
  if (error.name === "AbortError") return;
  element("status").replaceChildren();
  element("problem").textContent = error instanceof Refused ? error.message : "The service does not answer. Is it still running?";
  element("problem").hidden = false;
}

function showAnswer(found, words, picture, lacksSecondStage) {
  answer = found;
  element("hints").hidden = true;
  let mode = { exact: "exact ranking", fast: "fast ranking", image: "by likeness" }[found.mode];
  if (lacksSecondStage) mode += " (the model of this index knows no other)";
  const surety = found.confidence === null ? "" : `, confidence ${percent(found.confidence)}`;
  const count = found.hits.length === 1 ? "1 result" : `${found.hits.length} results`;
  showStatus(`${count} for ${words}: ${mode}, ${found.seconds.toFixed(2)} s${surety}`, picture);
  showNothing(found);
  results.replaceChildren(...found.hits.map(hitItem));
  const first = results.querySelector("button");
  if (first) first.tabIndex = 0;
}

function showNothing(found) {
  const banner = element("nothing");
  banner.hidden = found.hits.length > 0 && found.nothing_matches !== true;
  if (banner.hidden) return;
  const strong = make("strong", "", found.hits.length ? "Nothing here seems to match." : "The gallery is empty.");
  const surety = found.confidence === null ? "" : ` that the person is here: ${percent(found.confidence)}`;
  banner.replaceChildren(strong, found.hits.length ? `Confidence${surety}. The closest images are shown all the same.` : "");
}

function hitItem(hit, index) {
  const button = Object.assign(make("button", "hit"), { type: "button" });
  button.tabIndex = -1; // the results are a single tab stop; the arrow keys move among them
  button.append(
    Object.assign(new Image(), { src: imageUrl(hit, "thumbnail"), alt: "", loading: "lazy", decoding: "async" }),
    make("span", "caption", make("span", "rank", `${hit.rank}`), make("span", "score", hit.score.toFixed(2))),
  );
  if (hit.parts.length) button.append(make("span", "bars", ...hit.parts.map((part, at) => bar(part.score, at + 1))));
  const parts = hit.parts.map((part) => `${part.text} ${percent(part.score)}`);
  button.setAttribute("aria-label", [`Result ${hit.rank}`, `score ${hit.score.toFixed(2)}`, ...parts].join(", "));
  button.title = [`score ${hit.score.toFixed(2)}`, ...parts].join("\n");
  button.addEventListener("click", () => openHit(index));
  button.addEventListener("focus", () => setCurrent(button));
  return make("li", "", button);
}

// ---- the open result, and the keyboard ----

const buttons = () => [...results.querySelectorAll(".hit")];

function setCurrent(button) {
  for (const other of buttons()) other.tabIndex = other === button ? 0 : -1;
}

function openHit(index) {
  setCurrent(buttons()[index]);
  detail.open(answer, index);
}

function focusHit(index) {
  buttons()[index].focus({ preventScroll: true }); // the focus returns here when the result is closed
  setCurrent(buttons()[index]);
}

function columns() {
  const top = buttons()[0].offsetTop;
  return buttons().filter((button) => button.offsetTop === top).length;
}

results.addEventListener("keydown", (event) => {
  const at = buttons().indexOf(document.activeElement);
  if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -at, End: buttons().length - 1 - at };
  const target = buttons()[at + step[event.key]];
  if (!target) return;
  event.preventDefault();
  target.focus();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  searchSentence();
});
element("query").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  searchSentence();
});
for (const example of document.querySelectorAll(".example")) {
  example.addEventListener("click", () => {
    element("query").value = example.textContent;
    searchSentence();
  });
}

// ---- a picture: chosen or dropped ----

element("choose-picture").addEventListener("click", () => element("picture").click());
element("picture").addEventListener("change", (event) => {
  searchPicture(event.target.files[0]);
  event.target.value = ""; // allows choosing the same file again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  searchPicture(event.dataTransfer.files[0]);
});

// ---- light or dark, and what can be searched ----

function setLook(look) {
  document.documentElement.dataset.look = look;
  element("look").textContent = `Look: ${look}`;
}
element("look").addEventListener("click", () => {
  const look = LOOKS[(LOOKS.indexOf(document.documentElement.dataset.look) + 1) % LOOKS.length];
  localStorage.setItem("look", look);
  setLook(look);
});
setLook(LOOKS.includes(localStorage.getItem("look")) ? localStorage.getItem("look") : "auto");

try {
  limits = await ask("/api/gallery");
  const signal = limits.calibrated ? "" : "; not calibrated: it cannot say that nothing matches";
  element("gallery-info").textContent = `${limits.images.toLocaleString("en")} images${signal}`;
  element("query").maxLength = limits.max_query_characters;
  element("top").max = limits.max_top;
  element("sign-out").hidden = !limits.signed_in;
} catch (error) {
  showProblem(error);
}
