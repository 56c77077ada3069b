// One enlarged result: its scores, and where in the picture the model looks for each word of the sentence.

import { ask, imageUrl, Refused } from "./api.js";
import { Moment } from "./moment.js";
import { bar, colourOf, make, percent, withBreaks } from "./pieces.js";
import { MARKS } from "./results.js";

const VEIL = 0.72; // opacity of the dark veil where the model does not look
const GLOW = 0.38; // opacity of the part's colour where the model looks most
const REST_MS = 250; // on a result before the model is asked about it, so that paging through results asks nothing
const element = (id) => document.getElementById(id);

export class Detail {
  #dialog = element("detail");
  #answer = null;
  #index = 0;
  #image = null; // image_id of the picture that is shown: the hit's, or another one of its track
  #words = []; // words of the explanation
  #running = null; // AbortController of the pending explanation
  #onMove;
  #marks;
  #moment = new Moment({ onStep: (image) => this.#showImage(image) });

  /** marks: Marks of the current query. */
  constructor({ onMove, onSimilar, marks }) {
    this.#onMove = onMove;
    this.#marks = marks;
    for (const kind of Object.keys(MARKS)) element(kind).addEventListener("click", () => marks.toggle(this.#hit.image_id, kind));
    marks.addEventListener("change", () => this.#showMarks());
    element("close").addEventListener("click", () => this.close());
    element("detail-image").addEventListener("load", ({ target }) => {
      element("stage").style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
    });
    element("previous").addEventListener("click", () => this.#move(-1));
    element("next").addEventListener("click", () => this.#move(1));
    element("similar").addEventListener("click", () => onSimilar(this.#image));
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.close(); // a click outside the panel
    });
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.target.id === "video" || event.ctrlKey || event.altKey || event.metaKey) return; // it has keys of its own
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && event.shiftKey) this.#moment.step(step);
      else if (step) this.#move(step);
    });
    this.#dialog.addEventListener("close", () => {
      this.#running?.abort();
      this.#moment.close();
      this.#onMove(this.#index);
    });
  }

  get #hit() {
    return this.#answer.hits[this.#index];
  }

  /** Show one hit of an answer. */
  open(answer, index) {
    this.#answer = answer;
    this.#index = index;
    this.#showFigures();
    this.#showParts();
    this.#showMarks();
    this.#moment.open(this.#hit);
    this.#showImage(this.#hit.image_id);
    if (!this.#dialog.open) this.#dialog.showModal(); // Escape closes it, and the focus stays inside
    this.#dialog.scrollTop = 0;
  }

  close() {
    this.#dialog.close();
  }

  /** Whether the service gives out videos. */
  set canPlay(can) {
    this.#moment.canPlay = can;
  }

  #move(step) {
    if (!this.#answer.hits[this.#index + step]) return;
    this.open(this.#answer, this.#index + step);
    const focused = document.activeElement; // the previous result's words are gone, and a button may be disabled now
    if (!this.#dialog.contains(focused) || focused.disabled) element("detail-title").focus();
  }

  #showFigures() {
    const hit = this.#hit;
    element("detail-title").textContent = `Result ${hit.rank} of ${this.#answer.hits.length}`;
    element("previous").disabled = this.#index === 0;
    element("next").disabled = this.#index === this.#answer.hits.length - 1;
    const figures = [["Similarity", hit.similarity.toFixed(3)]];
    if (this.#answer.mode === "exact") figures.unshift(["Matching score", hit.score.toFixed(3)]);
    element("numbers").replaceChildren(...figures.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  }

  /** Show the hit's own picture, or another one of its track. */
  #showImage(image) {
    this.#image = image;
    const own = image === this.#hit.image_id;
    element("detail-image").src = imageUrl({ image_id: image }, "full");
    element("detail-image").alt = own ? `Image of result ${this.#hit.rank}` : `Another image of the track of result ${this.#hit.rank}`;
    element("detail-file").replaceChildren(...(own ? withBreaks(this.#hit.file) : ["The scores are those of the result itself."]));
    this.#draw([], 0);
    this.#explain();
  }

  #showMarks() {
    if (!this.#answer) return;
    for (const kind of Object.keys(MARKS)) element(kind).setAttribute("aria-pressed", this.#marks.kindOf(this.#hit?.image_id) === kind);
  }

  #showParts() {
    const parts = this.#hit.parts;
    element("parts-section").hidden = !parts.length;
    element("heat-hint").textContent = parts.length ? "Choose a word or a part." : "Choose a word.";
    element("parts").replaceChildren(
      ...parts.map((part, at) => {
        const label = make("span", "", make("span", "number", `${at + 1}`), part.text);
        const content = [label, make("span", "", percent(part.score)), bar(part.score, at + 1)];
        const button = this.#toggle(content, at + 1, () => this.#words.filter((word) => word.part === at + 1));
        return make("li", "", button);
      }),
    );
  }

  async #explain() {
    this.#running?.abort();
    this.#words = [];
    element("words").replaceChildren();
    element("sentence").hidden = this.#answer.mode === "image";
    if (this.#answer.mode === "image") return;
    const mine = (this.#running = new AbortController());
    this.#say("Looking …", true);
    try {
      await new Promise((resolve) => setTimeout(resolve, REST_MS));
      if (mine.signal.aborted) return;
      const asked = { query: this.#answer.query, image_id: this.#image };
      const { words } = await ask("/api/explain", asked, mine.signal);
      if (this.#running === mine) this.#showWords(words);
    } catch (error) {
      if (this.#running !== mine || error.name === "AbortError") return;
      this.#say(error instanceof Refused ? error.message : "The service does not answer.");
    }
  }

  #say(message, busy = false) {
    element("words-problem").textContent = message;
    element("words-problem").classList.toggle("busy", busy);
  }

  #showWords(words) {
    this.#say("");
    this.#words = words;
    element("words").replaceChildren(
      ...words.map((word) => {
        const part = this.#hit.parts.length ? word.part : 0; // without a list of parts, part numbers mean nothing
        const content = [word.word, ...(part ? [make("sup", "", `${part}`)] : [])];
        return this.#toggle(content, part, () => [word]);
      }),
    );
  }

  /** A button that shows the heat of some words while it is pressed. */
  #toggle(content, part, chosenWords) {
    const button = Object.assign(make("button", colourOf(part), ...content), { type: "button" });
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const press = button.getAttribute("aria-pressed") === "false";
      for (const other of this.#dialog.querySelectorAll("#words [aria-pressed], #parts [aria-pressed]")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", press);
      this.#draw(press ? chosenWords() : [], part);
    });
    return button;
  }

  /** Draw the maximum heat of some words over the picture: one canvas pixel per patch, smoothed by the browser. */
  #draw(words, part) {
    const canvas = element("heat");
    canvas.hidden = !words.length;
    if (canvas.hidden) return;
    const rows = words[0].heat.length;
    const columns = words[0].heat[0].length;
    Object.assign(canvas, { width: columns, height: rows });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    const [red, green, blue] = rgbOf(colourOf(part));
    for (let at = 0; at < rows * columns; at++) {
      const heat = Math.max(...words.map((word) => word.heat[Math.floor(at / columns)][at % columns]));
      const colour = [red * heat, green * heat, blue * heat];
      pixels.data.set([...colour, 255 * (VEIL * (1 - heat) + GLOW * heat)], 4 * at);
    }
    context.putImageData(pixels, 0, 0);
  }
}

/** The heat colour of a part's class in style.css, as numbers. */
function rgbOf(name) {
  const probe = make("i", name);
  probe.style.color = "var(--glow, white)";
  element("detail").append(probe);
  const colour = getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
  probe.remove();
  return colour;
}
