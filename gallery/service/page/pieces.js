// Small elements that several places of the page use.

const MAX_COLOURS = 6; // classes .part-1 ... of style.css

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** An element with a class and content: elements, or text, which is never parsed as HTML. */
export function make(tag, name, ...content) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...content);
  return made;
}

/** A path that may be broken into lines after each slash. */
export function withBreaks(path) {
  return path.split("/").flatMap((name, at) => (at ? ["/", document.createElement("wbr"), name] : [name]));
}

/** The class that gives a part of the sentence (from 1; 0 = none) its colour. */
export function colourOf(part) {
  return part > 0 ? `part-${((part - 1) % MAX_COLOURS) + 1}` : "";
}

/** A bar in the part's colour for a share in [0, 1]. */
export function bar(share, part) {
  const fill = make("i", "");
  fill.style.width = `${100 * share}%`;
  return make("span", `bar ${colourOf(part)}`, fill);
}
