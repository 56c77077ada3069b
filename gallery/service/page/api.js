// Calls of the service's JSON interface.

export const imageUrl = (hit, size) => `/api/image?id=${encodeURIComponent(hit.image_id)}&size=${size}`;

/** The service refused a request; the message is for the user. */
export class Refused extends Error {}

/** GET without a body, otherwise POST: FormData unchanged, everything else as JSON. Throws Refused, or what fetch throws. */
export async function ask(path, body, signal) {
  const options = { signal, credentials: "same-origin" };
  if (body instanceof FormData) Object.assign(options, { method: "POST", body });
  else if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  }
  const response = await fetch(path, options);
  if (response.status === 401) {
    location.assign("/sign-in"); // the session has ended
    throw new Refused("Signed out.");
  }
  const content = await response.json();
  if (!response.ok) throw new Refused(sentence(content.detail));
  return content;
}

/** Why an address gives no picture or video; null if it gives one, or does not say. */
export async function reasonOf(path) {
  try {
    const response = await fetch(path, { credentials: "same-origin", headers: { range: "bytes=0-0" } });
    return response.ok ? null : sentence((await response.json()).detail);
  } catch {
    return null;
  }
}

const sentence = (detail) => `${detail[0].toUpperCase()}${detail.slice(1)}.`;
