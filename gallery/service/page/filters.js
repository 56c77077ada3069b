// The row of filters: recordings, times, and how tall a person's box must be. It is there if the index knows such things.

import { ask } from "./api.js";

const element = (id) => document.getElementById(id);
const fields = ["source", "after", "before", "min-height"].map(element);

/** Show the row and offer the recordings. */
export async function showFilters() {
  const { sources } = await ask("/api/sources");
  element("sources").replaceChildren(...sources.map(({ source }) => Object.assign(document.createElement("option"), { value: source })));
  element("filters").hidden = !sources.length;
  tell();
}

/** The filter fields of a request; only those that are filled in. */
export function chosenFilters() {
  if (element("filters").hidden) return {};
  const chosen = { group: element("group").checked };
  const source = element("source").value.trim();
  if (source) chosen.source = [source];
  if (element("after").value) chosen.after = element("after").value;
  if (element("before").value) chosen.before = element("before").value;
  if (element("min-height").value) chosen.min_height = Number(element("min-height").value);
  return chosen;
}

/** Say beside the heading how many filters are on, since the row may be closed. */
function tell() {
  const on = fields.filter((field) => field.value.trim()).length;
  element("filters-on").textContent = on ? `: ${on} on` : "";
  element("clear-filters").disabled = !on;
}

for (const field of fields) field.addEventListener("input", tell);
element("clear-filters").addEventListener("click", () => {
  for (const field of fields) field.value = "";
  tell();
  element("source").focus();
});
