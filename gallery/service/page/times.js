// Times as people read them. A clock is the camera's local time in ISO 8601; seconds count from the start of a video.

/** 64.2 -> "1:04", 3725 -> "1:02:05" */
export function seconds(value) {
  const whole = Math.floor(value);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const [first, ...rest] = parts[0] ? parts : parts.slice(1);
  return [first, ...rest.map((part) => `${part}`.padStart(2, "0"))].join(":");
}

/** "2026-11-20T08:00:04.5" -> "2026-11-20 08:00:04" */
export const clock = (value) => value.slice(0, 19).replace("T", " ");

/** When a crop was recorded: the time of day if it is known, else the time in the video; "" for a picture without either. */
export function moment({ clock: time, time_s }) {
  if (time) return clock(time);
  return time_s === null ? "" : seconds(time_s);
}

/** From the first to the last crop of a group: "08:00:02 – 08:00:18", with the day where it is another one; "" if unknown. */
export function span({ start_s, end_s, start_clock, end_clock }) {
  if (start_clock && end_clock) {
    const [start, end] = [clock(start_clock), clock(end_clock)];
    if (start === end) return start;
    return start.slice(0, 10) === end.slice(0, 10) ? `${start} – ${end.slice(11)}` : `${start} – ${end}`;
  }
  if (start_s === null || end_s === null) return "";
  return seconds(start_s) === seconds(end_s) ? seconds(start_s) : `${seconds(start_s)} – ${seconds(end_s)}`;
}
