// Where and when a result was recorded: the full frame with the box, the crops of the same track, and the video.

import { ask, reasonOf, Refused } from "./api.js";
import { withBreaks } from "./pieces.js";
import { moment, seconds } from "./times.js";

const BEFORE_S = 2; // the video starts so long before the crop
const REST_MS = 250; // on a crop before its frame is asked for: decoding one takes the service a while
const element = (id) => document.getElementById(id);

export class Moment {
  #shown = null; // { image_id, origin } of the crop that is shown
  #track = { crops: [], position: 0, total: 0 };
  #asked = 0; // counts what was opened, so that late answers are ignored
  #onStep;
  canPlay = true;

  /** onStep(image_id): another crop of the track is shown. */
  constructor({ onStep }) {
    this.#onStep = onStep;
    element("earlier").addEventListener("click", () => this.step(-1));
    element("later").addEventListener("click", () => this.step(1));
    element("play").addEventListener("click", () => this.#play());
    element("frame-image").addEventListener("error", () => this.#explainFailure("/api/frame", "The frame cannot be shown."));
    element("video").addEventListener("error", () => {
      if (element("video").hidden) return;
      this.#showFrame();
      this.#explainFailure("/api/video", "This browser cannot play the video.");
    });
    element("video").addEventListener("loadedmetadata", ({ target }) => {
      target.currentTime = Math.max(0, this.#shown.origin.time_s - BEFORE_S);
    });
  }

  /** Show where a hit comes from, or nothing if that is not known. */
  async open(hit) {
    const mine = ++this.#asked;
    element("moment").hidden = !hit.origin;
    this.#stop();
    if (!hit.origin) return;
    this.#track = { crops: [], position: 0, total: 0 };
    this.#show(hit.image_id, hit.origin);
    try {
      const track = await ask(`/api/track?id=${encodeURIComponent(hit.image_id)}`);
      if (mine === this.#asked) this.#track = track;
    } catch (error) {
      if (mine === this.#asked) this.#say(error instanceof Refused ? error.message : "The service does not answer.");
    }
    if (mine === this.#asked) this.#tellPlace();
  }

  close() {
    this.#asked++;
    this.#stop();
  }

  /** Go to the next (1) or the previous (-1) crop of the track. */
  step(by) {
    const crop = this.#track.crops[this.#track.position + by];
    if (!crop) return;
    this.#track.position += by;
    this.#stop();
    this.#show(crop.image_id, { ...this.#shown.origin, ...crop });
    this.#onStep(crop.image_id);
  }

  #show(image_id, origin) {
    this.#shown = { image_id, origin };
    const time = [moment(origin), origin.clock && origin.time_s !== null ? `${seconds(origin.time_s)} in the video` : ""];
    element("moment-source").replaceChildren(...withBreaks(origin.source));
    element("moment-time").textContent = time.filter(Boolean).join(", ");
    element("play").hidden = origin.kind !== "video" || !this.canPlay;
    this.#showFrame();
    this.#tellPlace();
  }

  #showFrame() {
    const { image_id, origin } = this.#shown;
    this.#stop();
    const [x0, y0, x1, y1] = origin.box;
    const [width, height] = origin.frame_size;
    element("frame").style.setProperty("--ratio", width / height);
    Object.assign(element("frame-box").style, {
      left: `${(100 * x0) / width}%`,
      top: `${(100 * y0) / height}%`,
      width: `${(100 * (x1 - x0)) / width}%`,
      height: `${(100 * (y1 - y0)) / height}%`,
    });
    element("frame-image").alt = `The full frame, ${moment(origin)}`;
    element("frame-image").removeAttribute("src");
    const mine = this.#asked;
    setTimeout(() => {
      if (mine !== this.#asked || this.#shown.image_id !== image_id) return;
      element("frame-image").src = `/api/frame?id=${encodeURIComponent(image_id)}`;
    }, REST_MS);
  }

  #tellPlace() {
    const { crops, position, total } = this.#track;
    element("earlier").disabled = !crops[position - 1];
    element("later").disabled = !crops[position + 1];
    element("steps").hidden = total < 2;
    const all = total > crops.length ? `${crops.length} around it (${total} in all)` : `${total} of this person`;
    element("place").textContent = `Picture ${position + 1} of ${all}`;
  }

  #play() {
    const video = element("video");
    element("frame-image").hidden = element("frame-box").hidden = true;
    video.hidden = false;
    element("play").hidden = true;
    video.src = `/api/video?id=${encodeURIComponent(this.#shown.image_id)}`;
    video.play().catch(() => {}); // the error event says why
    video.focus();
  }

  #stop() {
    const video = element("video");
    video.hidden = true;
    video.pause();
    if (video.hasAttribute("src")) {
      video.removeAttribute("src");
      video.load(); // ends the download
    }
    element("frame-image").hidden = element("frame-box").hidden = false;
    if (this.#shown) element("play").hidden = this.#shown.origin.kind !== "video" || !this.canPlay;
    this.#say("");
  }

  /** An image or a video that fails tells no reason, but its address does. */
  async #explainFailure(path, otherwise) {
    const mine = this.#asked;
    const reason = await reasonOf(`${path}?id=${encodeURIComponent(this.#shown.image_id)}`);
    if (mine === this.#asked) this.#say(reason ?? otherwise);
  }

  #say(message) {
    element("moment-problem").textContent = message;
  }
}
