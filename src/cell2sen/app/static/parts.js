// Parts of the page: elements, bars, numbers, tables as CSV.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "circle", "line", "text", "path", "g", "title", "rect"]);

// Element with properties and children. Texts become text nodes, never markup.
export function el(tag, properties = {}, ...children) {
  const isSvg = SVG_TAGS.has(tag);
  const made = isSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.setAttribute("class", value);
    else if (name === "style") Object.assign(made.style, value);
    else if (!isSvg && name in made && name !== "list" && name !== "role") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function fill(holder, ...children) {
  holder.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

export const count = (n) => Number(n).toLocaleString("en-GB");
export const cellsOf = (n) => `${count(n)} ${n === 1 ? "cell" : "cells"}`;
export const share = (value) => {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
};
export const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
export const short = (value) => (value === null || value === undefined ? "–" : Number(value).toPrecision(3).replace(/\.?0+$/, ""));

export function duration(seconds) {
  if (seconds < 1.5) return "a second";
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// A field with its label in front, associated by id.
let fieldNumber = 0;
export function labelled(text, field, properties = {}) {
  field.id ||= `c2s-field-${(fieldNumber += 1)}`;
  return el("div", { class: "c2s-field", ...properties }, el("label", { htmlFor: field.id }, text), field);
}

export function options(select, values, chosen, texts = values) {
  fill(select, values.map((value, i) => el("option", { value }, texts[i])));
  select.value = values.includes(chosen) ? chosen : values[0] ?? "";
}

// Rows of a name, a bar and a value. rows: [{name, value, text, colour, title}], values from 0 to `most`.
export function bars(rows, most, label) {
  return el("ul", { class: "c2s-bars", "aria-label": label }, rows.map((row) => el(
    "li",
    { title: row.title },
    row.onclick ? el("button", { class: "c2s-link c2s-barname", onclick: row.onclick }, row.name)
      : el("span", { class: "c2s-barname" }, row.name),
    el("span", { class: "c2s-track" }, el("span", {
      class: "c2s-bar", style: { width: `${Math.max(0.5, Math.min(100, (100 * row.value) / (most || 1)))}%`, background: row.colour ?? "" },
    })),
    el("span", { class: "c2s-value" }, row.text),
  )));
}

// Rows of a gene with one or two bars left or right of a middle line.
// rows: [{name, values: [number or null], texts, title, onclick}], kinds: names of the values.
export function changes(rows, kinds, label) {
  const most = Math.max(1e-9, ...rows.flatMap((row) => row.values.map((value) => Math.abs(value ?? 0))));
  return el("div", {},
    kinds.length > 1 && el("p", { class: "c2s-key" }, kinds.map((kind, i) => el("span", {}, el("span", { class: `c2s-swatch c2s-kind${i}` }), kind))),
    el("ul", { class: "c2s-changes", "aria-label": label }, rows.map((row) => el(
      "li",
      { title: row.title },
      el("button", { class: "c2s-link c2s-barname", onclick: row.onclick, title: `colour the map by ${row.name}` }, row.name),
      el("span", { class: "c2s-middle" }, row.values.map((value, i) => el("span", { class: "c2s-half" }, el("span", {
        class: `c2s-bar c2s-kind${i}`,
        style: {
          width: `${(50 * Math.abs(value ?? 0)) / most}%`, left: (value ?? 0) < 0 ? `${50 - (50 * Math.abs(value)) / most}%` : "50%",
        },
      })))),
      el("span", { class: "c2s-value" }, row.texts.map((text) => el("span", {}, text))),
    ))));
}

// Scatter of predicted over measured values. points: [{name, x, y}], the most changed first.
export function scatter(points, xLabel, yLabel, onpick) {
  const size = 260;
  const most = 1.08 * Math.max(0.1, ...points.map((p) => Math.max(Math.abs(p.x), Math.abs(p.y))));
  const at = (value) => (size / 2) * (1 + value / most);
  const named = [];
  for (const p of points) {
    if (named.length >= 8) break;
    const place = [at(p.x), size - at(p.y)];
    if (named.every((q) => Math.abs(q.place[1] - place[1]) > 11 || Math.abs(q.place[0] - place[0]) > 60)) named.push({ ...p, place });
  }
  return el("figure", { class: "c2s-figure" },
    el("svg", { viewBox: `-30 -4 ${size + 38} ${size + 32}`, role: "img", "aria-label": `${yLabel} over ${xLabel} of ${count(points.length)} genes` },
      el("line", { x1: 0, x2: size, y1: size / 2, y2: size / 2, class: "c2s-axis" }),
      el("line", { y1: 0, y2: size, x1: size / 2, x2: size / 2, class: "c2s-axis" }),
      el("line", { x1: 0, x2: size, y1: size, y2: 0, class: "c2s-axis c2s-dashed" }),
      points.map((p) => el("circle", { cx: at(p.x), cy: size - at(p.y), r: 2.4, class: "c2s-dot", onclick: () => onpick(p.name) },
        el("title", {}, `${p.name}: measured ${signed(p.x)}, predicted ${signed(p.y)}`))),
      named.map((p) => el("text", {
        x: p.place[0] + (p.place[0] > size - 60 ? -5 : 5), y: p.place[1] + 3.5, "text-anchor": p.place[0] > size - 60 ? "end" : "start", class: "c2s-pointname",
      }, p.name)),
      [[-most / 1.08, 0], [most / 1.08, 0]].map(([value]) => el("text", { x: at(value), y: size / 2 + 12, "text-anchor": value < 0 ? "start" : "end", class: "c2s-tick" }, signed(value))),
      el("text", { x: size / 2, y: size + 22, "text-anchor": "middle", class: "c2s-tick" }, xLabel),
      el("text", { x: 0, y: 0, "text-anchor": "middle", class: "c2s-tick", transform: `translate(-14 ${size / 2}) rotate(-90)` }, yLabel)));
}

export function saveFile(name, parts, type) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// A table as CSV. Fields that a spreadsheet would take for a formula begin with an apostrophe.
export function saveCsv(name, header, rows) {
  const field = (value) => {
    if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
    const text = /^[=+\-@\t]/.test(value ?? "") ? `'${value}` : String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  saveFile(name, [[header, ...rows].map((row) => row.map(field).join(",")).join("\n"), "\n"], "text/csv");
}

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89],
  [180, 222, 44], [253, 231, 37],
];

export function shade(value) {
  const at = Math.min(1, Math.max(0, value)) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(at));
  return VIRIDIS[low].map((part, i) => Math.round(part + (VIRIDIS[low + 1][i] - part) * (at - low)));
}

export const gradient = () => `linear-gradient(to right, ${VIRIDIS.map((c) => `rgb(${c.join(",")})`).join(", ")})`;

export function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
