// The search page: the form, and what a search brings. results.js lists it, detail.js shows the open result.

import { ask, imageUrl, Refused } from "./api.js";
import { Detail } from "./detail.js";
import { chosenFilters, showFilters } from "./filters.js";
import { Marks } from "./marks.js";
import { make, percent } from "./pieces.js";
import { Results } from "./results.js";

const LOOKS = ["auto", "light", "dark"];
const element = (id) => document.getElementById(id);
const form = element("search");

let asked = null; // the last search: { path, body, words, picture }
let running = null; // AbortController of the pending search
let limits = { max_upload_bytes: Infinity };

const marks = new Marks();
const results = new Results({ onOpen: (index) => detail.open(results.answer, index), marks });
const detail = new Detail({ onMove: (index) => results.focus(index), onSimilar: searchSimilar, marks });

// ---- searching ----

/** A new search; the marks of the last one do not apply to it. */
function search(path, body, words, picture = null) {
  marks.clear();
  return run({ path, body: { ...body, top: chosenTop(), ...chosenFilters() }, words, picture });
}

/** The last search again, with the marks that there are now. */
function refine() {
  return run({ ...asked, body: { ...asked.body, liked: marks.of("liked"), disliked: marks.of("disliked") } });
}

async function run(request) {
  running?.abort();
  const mine = (running = new AbortController());
  showBusy(request);
  try {
    const found = await ask(request.path, request.body.image ? asForm(request.body) : request.body, mine.signal);
    if (running !== mine) return;
    asked = request;
    showAnswer(found);
  } catch (error) {
    if (running !== mine) return; // a newer search has replaced this one
    results.clear(); // they belong to another search
    showProblem(error);
  } finally {
    if (running === mine) {
      running = null;
      setBusy(false);
    }
  }
}

/** The fields of a request as a form, which can carry a file; one field for each value of a list. */
function asForm(body) {
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) for (const each of [value].flat()) form.append(name, each);
  return form;
}

function searchSentence() {
  if (!form.reportValidity()) return;
  const query = element("query").value.trim();
  if (!query) return element("query").focus();
  const fast = new FormData(form).get("mode") === "fast";
  search("/api/search", { query, fast }, `“${query}”`);
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
  search("/api/search/image", { image: file }, "people like this one", URL.createObjectURL(file));
}

function searchSimilar(image_id) {
  detail.close();
  search("/api/search/similar", { image_id }, "people like this one", imageUrl({ image_id }, "thumbnail"));
}

const chosenTop = () => Number(element("top").value) || 20;

// ---- what a search brings ----

function setBusy(busy) {
  results.setBusy(busy);
  element("status").classList.toggle("busy", busy);
}

function showBusy({ words, picture }) {
  for (const banner of ["problem", "nothing", "remarks"]) element(banner).hidden = true;
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

function showAnswer(found) {
  element("hints").hidden = true;
  let mode = { exact: "exact ranking", fast: "fast ranking", image: "by likeness" }[found.mode];
  if (found.mode === "fast" && asked.body.fast === false && !marks.count) mode += " (the model of this index knows no other)";
  if (marks.count) mode += ", refined by your marks";
  const surety = found.confidence === null ? "" : `, confidence ${percent(found.confidence)}`;
  const count = found.hits.length === 1 ? "1 result" : `${found.hits.length} results`;
  showStatus(`${count} for ${asked.words}: ${mode}, ${found.seconds.toFixed(2)} s${surety}`, asked.picture);
  showNothing(found);
  showRemarks(found);
  results.show(found);
}

function showNothing(found) {
  const banner = element("nothing");
  banner.hidden = found.hits.length > 0 && found.nothing_matches !== true;
  if (banner.hidden) return;
  if (!found.hits.length) {
    const filtered = Object.keys(asked.body).some((name) => ["source", "after", "before", "min_height"].includes(name));
    return banner.replaceChildren(make("strong", "", filtered ? "Nothing passes the filters." : "The gallery is empty."));
  }
  const surety = found.confidence === null ? "" : ` that the person is here: ${percent(found.confidence)}`;
  const strong = make("strong", "", "Nothing here seems to match.");
  banner.replaceChildren(strong, `Confidence${surety}. The closest images are shown all the same.`);
}

/** How the sentence was read, if that may surprise. */
function showRemarks({ unknown_words, negated }) {
  const quoted = (words) => words.map((word) => `“${word}”`).join(", ");
  const lines = [];
  if (unknown_words.length) lines.push(`Not understood: ${quoted(unknown_words)}. The results go by the other words, and the confidence is lower for it.`);
  if (negated.length) lines.push(`Read as what the person must not have: ${quoted(negated)}. Images that seem to show it come later.`);
  element("remarks").hidden = !lines.length;
  element("remarks").replaceChildren(...lines.map((line) => make("div", "", line)));
}

marks.addEventListener("change", () => {
  const [liked, disliked] = [marks.of("liked").length, marks.of("disliked").length];
  const refined = Boolean(asked?.body.liked?.length || asked?.body.disliked?.length);
  element("marked").textContent = `Marked: ${liked} like this, ${disliked} not this`;
  element("refine").hidden = !marks.count && !refined;
  element("refine-now").disabled = !marks.count;
});
element("refine-now").addEventListener("click", async () => {
  await refine();
  element("results").focus();
});
element("clear-marks").addEventListener("click", async () => {
  const refined = asked.body.liked?.length || asked.body.disliked?.length;
  marks.clear();
  if (refined) await refine();
  element("refine").hidden = true;
  element("results").focus();
});

// ---- the form ----

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
  detail.canPlay = !limits.blur_others;
  if (limits.origins) await showFilters();
} catch (error) {
  showProblem(error);
}
