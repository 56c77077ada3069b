// Results that the user marked: "more like this one" (liked) or "not this one" (disliked). They belong to one query.

export class Marks extends EventTarget {
  #kinds = new Map(); // image_id -> liked or disliked

  kindOf(image) {
    return this.#kinds.get(image) ?? null;
  }

  of(kind) {
    return [...this.#kinds].filter(([, own]) => own === kind).map(([image]) => image);
  }

  get count() {
    return this.#kinds.size;
  }

  /** Mark an image, or take the same mark off again. */
  toggle(image, kind) {
    if (this.kindOf(image) === kind) this.#kinds.delete(image);
    else this.#kinds.set(image, kind);
    this.dispatchEvent(new Event("change"));
  }

  clear() {
    this.#kinds.clear();
    this.dispatchEvent(new Event("change"));
  }
}
