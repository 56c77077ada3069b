// The list of results: a tile for each hit, marks of the user, and the keyboard.

import { imageUrl } from "./api.js";
import { bar, make, percent } from "./pieces.js";
import { span } from "./times.js";

const element = (id) => document.getElementById(id);
const list = element("results");
export const MARKS = { liked: ["✓", "More like"], disliked: ["✕", "Not"] };

export class Results {
  answer = null; // the one that is shown
  #onOpen;
  #marks;

  /** marks: Marks of the current query. */
  constructor({ onOpen, marks }) {
    this.#onOpen = onOpen;
    this.#marks = marks;
    list.addEventListener("keydown", (event) => this.#move(event));
    marks.addEventListener("change", () => this.#showMarks());
  }

  show(answer) {
    this.answer = answer;
    list.replaceChildren(...answer.hits.map((hit, index) => this.#tile(hit, index)));
    if (answer.hits.length) this.#setCurrent(this.#buttons[0]);
    this.#showMarks();
  }

  clear() {
    list.replaceChildren();
  }

  setBusy(busy) {
    list.setAttribute("aria-busy", busy);
  }

  focus(index) {
    this.#buttons[index].focus({ preventScroll: true });
    this.#setCurrent(this.#buttons[index]);
  }

  get #buttons() {
    return [...list.querySelectorAll(".hit")];
  }

  #tile(hit, index) {
    const button = Object.assign(make("button", "hit"), { type: "button" });
    button.append(
      Object.assign(new Image(), { src: imageUrl(hit, "thumbnail"), alt: "", loading: "lazy", decoding: "async" }),
      make("span", "caption", make("span", "rank", `${hit.rank}`), make("span", "score", hit.score.toFixed(2))),
    );
    const seen = described(hit.group);
    if (seen.length) button.append(make("span", "seen", ...seen.map((line) => make("span", "", line))));
    if (hit.parts.length) button.append(make("span", "bars", ...hit.parts.map((part, at) => bar(part.score, at + 1))));
    const parts = hit.parts.map((part) => `${part.text} ${percent(part.score)}`);
    button.setAttribute("aria-label", [`Result ${hit.rank}`, `score ${hit.score.toFixed(2)}`, ...seen, ...parts].join(", "));
    button.title = [`score ${hit.score.toFixed(2)}`, ...seen, ...parts].join("\n");
    button.addEventListener("click", () => {
      this.#setCurrent(button);
      this.#onOpen(index);
    });
    button.addEventListener("focus", () => this.#setCurrent(button));
    const marks = Object.keys(MARKS).map((kind) => this.#markButton(hit, kind));
    return Object.assign(make("li", "", button, make("span", "marks", ...marks)));
  }

  #markButton(hit, kind) {
    const [sign, words] = MARKS[kind];
    const button = Object.assign(make("button", `mark ${kind}`, sign), { type: "button", title: `${words} this one` });
    button.dataset.image = hit.image_id;
    button.dataset.kind = kind;
    button.setAttribute("aria-label", `${words} result ${hit.rank}`);
    button.addEventListener("click", () => this.#marks.toggle(hit.image_id, kind));
    return button;
  }

  #showMarks() {
    for (const button of list.querySelectorAll(".mark")) {
      const pressed = this.#marks.kindOf(button.dataset.image) === button.dataset.kind;
      button.setAttribute("aria-pressed", pressed);
      if (pressed) button.closest("li").dataset.mark = button.dataset.kind;
      else if (this.#marks.kindOf(button.dataset.image) === null) delete button.closest("li").dataset.mark;
    }
  }

  /** The results are a single tab stop, with the marks of the current one behind it; the arrow keys move among them. */
  #setCurrent(current) {
    for (const each of list.children) {
      for (const button of each.querySelectorAll("button")) button.tabIndex = each.contains(current) ? 0 : -1;
    }
  }

  #move(event) {
    const buttons = this.#buttons;
    const at = buttons.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const columns = buttons.filter((button) => button.parentElement.offsetTop === buttons[0].parentElement.offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: buttons.length - 1 - at };
    const target = buttons[at + step[event.key]];
    if (!target) return;
    event.preventDefault();
    target.focus();
  }
}

/** What a result stands for, in lines: how many pictures, and when they were taken. */
function described(group) {
  if (!group) return [];
  return [group.count > 1 ? `${group.count.toLocaleString("en")} pictures` : "", span(group)].filter(Boolean);
}
