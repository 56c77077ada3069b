// Small pieces of the page that several places show.

const MAX_COLOURS = 6; // classes .part-1 ... of style.css

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** An element with a class and content: text, which is never read as HTML, or elements. */
export function make(tag, name, ...content) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...content);
  return made;
}

/** The class that gives a part of the sentence (from 1; 0 = none) its colour. */
export function colourOf(part) {
  return part > 0 ? `part-${((part - 1) % MAX_COLOURS) + 1}` : "";
}

/** A share in [0, 1] as a bar in the part's colour. */
export function bar(share, part) {
  const fill = make("i", "");
  fill.style.width = `${100 * share}%`;
  return make("span", `bar ${colourOf(part)}`, fill);
}
