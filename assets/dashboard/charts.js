/** Line charts of the last minutes, one value a second: one minute at first, five at most. */
import { svg } from "./dom.js";

const SECONDS_MIN = 60;
const SECONDS_MAX = 300;
const SIZE = { width: 320, height: 96, left: 2, right: 2, top: 6, bottom: 4 };

/** The next of 1, 2, 5, 10, ... at or above the value. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}

export class Chart {
  #box;
  #format;
  #series;
  #values;

  /** `series`: names of the lines, in the order of their colours. */
  constructor(box, { series, format }) {
    this.#box = box;
    this.#format = format;
    this.#series = series;
    this.#values = series.map(() => []);
  }

  /** Adds the values of this second; undefined leaves a gap. */
  add(values) {
    values.forEach((value, index) => {
      this.#values[index].push(value);
      if (this.#values[index].length > SECONDS_MAX) this.#values[index].shift();
    });
    this.#draw();
  }

  #draw() {
    const all = this.#values.flat().filter((value) => value !== undefined);
    const seconds = Math.max(SECONDS_MIN, this.#values[0].length);
    const top = all.length === 0 ? undefined : roundUp(Math.max(...all));
    const scaleText = top === undefined ? "" : this.#format(top);
    const { width, height } = SIZE;
    const latest = this.#values.map((values) => values.findLast((value) => value !== undefined));
    const legend = this.#series.map((name, index) => {
      const value = latest[index];
      return `${name} ${value === undefined ? "none yet" : this.#format(value)}`;
    });
    const picture = svg("svg", {
      ...{ viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" },
      "aria-label": `Last ${seconds} seconds. Now: ${legend.join(", ")}. Scale to ${scaleText || "nothing yet"}.`,
    });
    for (const share of [0, 0.5, 1]) {
      const y = yOf(share);
      picture.append(svg("line", { x1: 0, x2: width, y1: y, y2: y, class: "grid" }));
    }
    this.#values.forEach((values, index) => {
      const path = pathOf(values, { seconds, top });
      if (path !== "") picture.append(svg("path", { d: path, class: `line l${index + 1}` }));
    });
    const scale = document.createElement("p");
    scale.className = "scale";
    scale.append(span(scaleText), span(scaleText && "0"));
    const list = document.createElement("ul");
    list.className = "legend";
    list.append(
      ...legend.map((text, index) => {
        const item = document.createElement("li");
        item.className = `l${index + 1}`;
        item.textContent = text;
        return item;
      }),
    );
    const plot = document.createElement("div");
    plot.className = "plot";
    plot.append(picture, scale);
    this.#box.replaceChildren(list, plot);
  }
}

/** `share` of the scale, from the bottom. */
function yOf(share) {
  const room = SIZE.height - SIZE.top - SIZE.bottom;
  return SIZE.top + room * (1 - share);
}

/** The latest value is at the right edge, which is `seconds` wide. */
function pathOf(values, { seconds, top }) {
  const room = SIZE.width - SIZE.left - SIZE.right;
  let path = "";
  let isDown = false;
  values.forEach((value, index) => {
    if (value === undefined) {
      isDown = false;
      return;
    }
    const x = SIZE.left + (room * (seconds - values.length + index)) / (seconds - 1);
    path += `${isDown ? "L" : "M"}${x.toFixed(1)} ${yOf(value / top).toFixed(1)}`;
    isDown = true;
  });
  return path;
}

function span(text) {
  const node = document.createElement("span");
  node.textContent = text;
  return node;
}
