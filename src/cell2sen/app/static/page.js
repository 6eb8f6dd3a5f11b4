// Page: header, map and legend, selections and their history, keys.
import { LostError } from "./link.js";
import { CellMap } from "./map.js";
import { Actions, Comparison, Selection, Sentences } from "./panels.js";
import { cellsOf, count, duration, el, fill, gradient, labelled, options, rgb, saveFile, shade, short } from "./parts.js";

const KEYS = [
  ["l", "lasso"], ["r", "rectangle"], ["m", "move the map"], ["0", "whole map"], ["+ −", "zoom"], ["arrows", "move"],
  ["a b", "keep the selection as group A or B"], ["c", "compare A with B"], ["Esc", "clear the selection"],
  ["Ctrl+Z", "undo the last selection"], ["?", "this list"],
];

const MAX_NAMES = 60;

export function mount(root, link, { widget = false } = {}) {
  const page = new CellPage(root, link, widget);
  page.begin();
  return () => page.map?.destroy();
}

class CellPage {
  constructor(root, link, widget) {
    this.root = root;
    this.link = link;
    this.widget = widget;
    this.history = [];
    this.prefix = `c2s-${Math.random().toString(36).slice(2)}`;
    this.nSelections = 0;
    this.selection = { id: 0, rows: new Uint32Array(0), text: "" };
    this.kept = new Map();
    this.groups = {};
    root.classList.add("cell2sen");
    root.classList.toggle("c2s-widget", widget);
    link.onlost = (how) => this.showLost(how);
  }

  async begin() {
    fill(this.root, el("p", { class: "c2s-section", role: "status" }, "Reading the cells …"));
    try {
      this.about = (await this.link.ask("about")).values;
    } catch (error) {
      fill(this.root, el("p", { class: "c2s-section c2s-error", role: "alert" }, error.message));
      return;
    }
    this.build();
    const { maps, first_colour: first } = this.about;
    await Promise.all([this.showMap(maps[0] ?? null), this.colourBy("column", first)]);
    this.root.dataset.ready = "yes";
  }

  build() {
    const { about } = this;
    document.title = this.widget ? document.title : `${about.name} – cell2sen`;
    this.mapSelect = el("select", { onchange: () => this.showMap(this.mapSelect.value) });
    this.colourSelect = el("select", { onchange: () => this.colourBy("column", this.colourSelect.value || null) });
    this.geneList = el("datalist", { id: `c2s-genes-${Math.random().toString(36).slice(2)}` });
    this.geneField = el("input", {
      type: "text", autocomplete: "off", spellcheck: false, list: this.geneList.id, placeholder: "CD3D",
      oninput: () => this.suggest(), onchange: () => this.geneField.value.trim() && this.colourBy("gene", this.geneField.value.trim()),
    });
    this.banner = el("div", { class: "c2s-banner", role: "alert", hidden: true });
    this.message = el("div", { class: "c2s-error", role: "alert", hidden: true });
    const header = el("header", { class: "c2s-header" },
      el("div", { class: "c2s-title" }, el(this.widget ? "h2" : "h1", {}, about.name),
        el("div", { class: "c2s-muted c2s-small" }, `${cellsOf(about.n_cells)} × ${count(about.n_genes)} genes, ${about.scale} · model ${about.model.name}`)),
      labelled("Map", this.mapSelect), labelled("Colour", this.colourSelect), labelled("Gene", this.geneField), this.geneList,
      this.link.download && el("button", { onclick: () => this.download(), title: "the cells with labels, probabilities, maps and groups, as a new AnnData file" }, "Download cells"),
      el("button", { onclick: () => this.help(), title: "keys of the map" }, "Keys"));
    this.showColumns();
    this.modes = ["lasso", "rectangle", "move"].map((mode) => el("button", {
      onclick: () => this.setMode(mode), "aria-pressed": String(mode === "lasso"),
    }, mode[0].toUpperCase() + mode.slice(1)));
    this.undoButton = el("button", { onclick: () => this.undo(), disabled: true }, "Undo");
    this.holder = el("div", {
      class: "c2s-map", tabIndex: 0, role: "application", "aria-label": "Map of cells. Question mark lists the keys; names in the legend select cells.",
      onkeydown: (event) => this.key(event),
    });
    this.tip = el("div", { class: "c2s-tip", hidden: true });
    this.empty = el("div", { class: "c2s-empty", hidden: true });
    this.legend = el("section", { class: "c2s-legend", "aria-label": "Legend", tabIndex: 0 });
    const left = el("div", { class: "c2s-left" },
      el("div", { class: "c2s-tools", role: "toolbar", "aria-label": "Tools of the map" }, this.modes,
        el("button", { onclick: () => this.map.whole() }, "Whole map"), this.undoButton,
        el("button", { onclick: () => this.picture("png") }, "PNG"), el("button", { onclick: () => this.picture("svg") }, "SVG")),
      this.message, this.holder, this.legend);
    this.parts = { selection: new Selection(this), actions: new Actions(this), comparison: new Comparison(this), sentences: new Sentences(this) };
    const right = el("div", { class: "c2s-right" }, Object.values(this.parts).map((part) => part.holder));
    this.dialog = el("dialog", { "aria-label": "Keys of the map" }, el("h2", {}, "While the map has the focus"),
      el("dl", { class: "c2s-keys" }, KEYS.map(([key, what]) => [el("dt", {}, key), el("dd", {}, what)])),
      el("p", { class: "c2s-small" }, "Shift adds to the selection, Alt removes from it; the wheel zooms. A click selects one cell."),
      el("button", { class: "c2s-main", onclick: () => this.dialog.close() }, "Close"));
    fill(this.root, header, this.banner, el(this.widget ? "div" : "main", { class: "c2s-main-area" }, left, right), this.dialog);
    this.root.addEventListener("keydown", (event) => {
      const isText = /^(INPUT|TEXTAREA)$/.test(event.target.tagName) && !/checkbox/.test(event.target.type);
      if ((event.ctrlKey || event.metaKey) && event.key === "z" && !isText) {
        event.preventDefault();
        this.undo();
      }
    });
    this.map = new CellMap(this.holder, {
      select: (rows, how) => this.select(rows, how, this.map.mode === "move" ? "click" : this.map.mode),
      hover: (row, x, y) => this.hover(row, x, y),
    });
    this.holder.append(this.tip, this.empty);
    this.parts.selection.show();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  showColumns() {
    const names = this.about.columns.map((column) => column.name);
    options(this.colourSelect, ["", ...names], this.colour?.kind === "gene" ? "" : this.colour?.name ?? "", ["none", ...names]);
    options(this.mapSelect, this.about.maps, this.mapName);
    this.mapSelect.disabled = this.about.maps.length < 2;
  }

  labelColumns() {
    return this.about.columns.filter((column) => column.kind === "label" && column.n > 1).map((column) => column.name);
  }

  async refresh() {
    this.about = (await this.link.ask("about")).values;
    this.showColumns();
  }

  // Run something that asks Python; its error is shown above the map.
  async attempt(work) {
    this.message.hidden = true;
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof LostError)) {
        fill(this.message, error.message);
        this.message.hidden = false;
      }
      return null;
    }
  }

  async showMap(name) {
    this.mapName = name;
    if (name === null) {
      this.showNoMap();
      return;
    }
    await this.attempt(async () => {
      const { arrays } = await this.link.ask("points", { map: name });
      this.empty.hidden = true;
      this.map.setPoints(arrays.x, arrays.y);
      this.showColumns();
      this.paint();
    });
  }

  // Ask once how long reading a cell takes; `then` is called when it is known. Nothing is shown where it is not.
  forecast(then) {
    this.forecasting ??= this.link.ask("forecast").then(({ values }) => { this.seconds = values.seconds_per_cell; }, () => {});
    this.forecasting.then(then);
  }

  forecastOf(n) {
    return this.seconds ? `about ${duration(this.seconds * n)} on the CPU` : "";
  }

  showNoMap() {
    const box = el("div", {});
    const run = (work) => this.run(work, {}, box, async (values) => {
      await this.refresh();
      await this.showMap(values.map);
    });
    const time = el("span", { class: "c2s-small" });
    this.forecast(() => fill(time, this.forecastOf(this.about.n_cells)));
    fill(this.empty, el("p", {}, "This file has no map: no coordinates in obsm. The legend and the fields still select cells."),
      el("div", { class: "c2s-row" },
        el("button", { class: "c2s-main", onclick: () => run("pca") }, "Principal components (seconds)"),
        el("button", { onclick: () => run("embed") }, `Embed with ${this.about.model.name}, then UMAP`), time), box);
    this.empty.hidden = false;
  }

  async colourBy(kind, name) {
    await this.attempt(async () => {
      if (name === null) {
        this.colour = { kind: "none", name: null };
      } else {
        const body = kind === "gene" ? { symbol: await this.geneNamed(name) } : { name };
        const { values, arrays } = await this.link.ask(kind, body);
        this.colour = { ...values, ...arrays };
      }
      this.geneField.value = kind === "gene" ? this.colour.name : "";
      this.showColumns();
      this.paint();
      await new Promise((done) => setTimeout(done)); // the page answers in between
      this.parts.selection.show();
      this.parts.sentences.draw();
    });
  }

  // The gene as the file writes it: cd3d → CD3D.
  async geneNamed(text) {
    const { names } = (await this.link.ask("genes", { prefix: text })).values;
    return names.find((name) => name.toUpperCase() === text.toUpperCase()) ?? text;
  }

  suggest() {
    clearTimeout(this.suggesting);
    this.suggesting = setTimeout(() => this.attempt(async () => {
      const { names } = (await this.link.ask("genes", { prefix: this.geneField.value })).values;
      fill(this.geneList, names.map((name) => el("option", { value: name })));
    }), 120);
  }

  css(name) {
    return getComputedStyle(this.root).getPropertyValue(name).trim();
  }

  // Colours of all cells, names on the map, and the legend.
  paint() {
    const { map, colour } = this;
    if (!map || !colour) return;
    const n = this.about.n_cells;
    const missing = rgb(this.css("--missing"));
    const isDark = rgb(this.css("--bg"))[0] < 100;
    const colours = new Uint8Array(4 * n).fill(255);
    const put = (i, [red, green, blue]) => {
      colours[4 * i] = red; colours[4 * i + 1] = green; colours[4 * i + 2] = blue;
    };
    const rank = new Float32Array(n);
    if (colour.kind === "label") {
      const parts = colour.colours.map((hex) => (hex ? rgb(hex === "#000000" && isDark ? "#FFFFFF" : hex) : missing));
      for (let i = 0; i < n; i += 1) {
        const code = colour.codes[i];
        put(i, code < 0 ? missing : parts[code]);
        rank[i] = code < 0 || !colour.colours[code] ? 0 : 1;
      }
      colour.shown = parts.map((part) => `rgb(${part.join(",")})`);
    } else if (colour.kind === "none") {
      const accent = rgb(this.css("--accent"));
      for (let i = 0; i < n; i += 1) put(i, accent);
    } else {
      const span = colour.clip - colour.low || 1;
      const ramp = Array.from({ length: 257 }, (_, step) => shade(step / 256));
      for (let i = 0; i < n; i += 1) {
        const value = colour.values[i];
        const place = Number.isFinite(value) ? Math.min(1, (value - colour.low) / span) : -1;
        put(i, place < 0 ? missing : ramp[Math.round(256 * place)]);
        rank[i] = place < 0 ? 0 : 1 + Math.round(1e6 * place);
      }
    }
    map.setColours(colours, rank);
    map.setNames(this.namesOnMap());
    this.showLegend();
  }

  namesOnMap() {
    const { colour, map } = this;
    if (colour.kind !== "label" || !map.x.length || this.mapName === null) return [];
    const members = colour.names.map(() => [[], []]);
    for (let i = 0; i < map.x.length; i += 1) {
      const code = colour.codes[i];
      if (code >= 0 && Number.isFinite(map.x[i])) {
        members[code][0].push(map.x[i]);
        members[code][1].push(map.y[i]);
      }
    }
    return colour.names
      .map((name, code) => ({ name, n: members[code][0].length, ...densest(...members[code], map.extent / 12), coloured: colour.colours[code] }))
      .filter((found) => found.n > 0 && found.coloured)
      .sort((a, b) => b.n - a.n);
  }

  showLegend() {
    const { colour } = this;
    if (colour.kind === "none") {
      fill(this.legend);
      return;
    }
    if (colour.kind === "label") {
      this.showLabels();
      return;
    }
    const from = el("input", { type: "number", step: "any", value: short(colour.low) });
    const to = el("input", { type: "number", step: "any", value: "" });
    const choose = () => {
      const [low, high] = [from.value === "" ? -Infinity : Number(from.value), to.value === "" ? Infinity : Number(to.value)];
      const rows = [];
      for (let i = 0; i < colour.values.length; i += 1) if (colour.values[i] >= low && colour.values[i] <= high) rows.push(i);
      const limits = `${from.value === "" ? "" : `${from.value} ≤ `}${colour.name}${to.value === "" ? "" : ` ≤ ${to.value}`}`;
      this.select(Uint32Array.from(rows), "replace", limits);
    };
    fill(this.legend, colour.low === null ? el("p", {}, `${colour.name} has no values`) : [
      el("div", { class: "c2s-range" }, el("strong", {}, colour.name), colour.kind === "gene" && el("span", { class: "c2s-muted c2s-small" }, "ln(1 + CP10k)"),
        el("span", {}, short(colour.low)), el("span", { class: "c2s-ramp", style: { background: gradient() } }),
        el("span", { title: "99th percentile" }, `${colour.clip < colour.high ? "≥ " : ""}${short(colour.clip)}`)),
      el("div", { class: "c2s-row" }, labelled("from", from), labelled("to", to), el("button", { onclick: choose }, "Select these cells"))]);
  }

  showLabels() {
    const { colour } = this;
    const missing = colour.codes.length - colour.counts.reduce((a, b) => a + b, 0);
    const list = el("ul", {});
    const row = (name, n, paint, code) => el("li", {}, el("button", {
      title: `select the ${cellsOf(n)}: ${name}`,
      onclick: (event) => this.select(this.rowsOf(code), event.shiftKey ? "add" : event.altKey ? "remove" : "replace", name),
    }, el("span", { class: "c2s-swatch", style: { background: paint } }), el("span", { class: "c2s-name" }, name), el("span", { class: "c2s-muted c2s-small" }, count(n))));
    const show = (text) => {
      const wanted = colour.names.map((name, code) => code).filter((code) => colour.names[code].toLowerCase().includes(text.toLowerCase()));
      if (colour.names.length > MAX_NAMES) wanted.sort((a, b) => colour.counts[b] - colour.counts[a]);
      fill(list, wanted.slice(0, MAX_NAMES).map((code) => row(colour.names[code], colour.counts[code], colour.shown[code], code)),
        wanted.length > MAX_NAMES && el("li", { class: "c2s-muted c2s-small" }, `and ${count(wanted.length - MAX_NAMES)} more: search`),
        missing > 0 && !text && row("no value", missing, this.css("--missing"), -1));
    };
    const search = el("input", { type: "search", oninput: () => show(search.value) });
    show("");
    fill(this.legend, colour.names.length > 20 && labelled(`Search ${count(colour.names.length)} labels`, search), list);
  }

  rowsOf(code) {
    const rows = [];
    for (let i = 0; i < this.colour.codes.length; i += 1) if (this.colour.codes[i] === code) rows.push(i);
    return Uint32Array.from(rows);
  }

  valueOf(row) {
    const { colour } = this;
    if (!colour || colour.kind === "none") return "";
    if (colour.kind === "label") return colour.codes[row] < 0 ? "no value" : colour.names[colour.codes[row]];
    return Number.isFinite(colour.values[row]) ? `${colour.name} ${short(colour.values[row])}` : "no value";
  }

  hover(row, x, y) {
    this.tip.hidden = row < 0;
    if (row < 0) return;
    fill(this.tip, `${this.valueOf(row) || `cell ${count(row + 1)}`}`);
    const place = Math.min(x + 12, this.holder.clientWidth - this.tip.offsetWidth - 4);
    Object.assign(this.tip.style, { left: `${place}px`, top: `${y > 40 ? y - 30 : y + 16}px` });
  }

  setMode(mode) {
    this.map.mode = mode;
    this.holder.classList.toggle("c2s-moving", mode === "move");
    for (const button of this.modes) button.setAttribute("aria-pressed", String(button.textContent.toLowerCase() === mode));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.holder) return;
    const actions = {
      l: () => this.setMode("lasso"), r: () => this.setMode("rectangle"), m: () => this.setMode("move"), 0: () => this.map.whole(),
      "+": () => this.map.zoomBy(1.3), "=": () => this.map.zoomBy(1.3), "-": () => this.map.zoomBy(1 / 1.3),
      ArrowLeft: () => this.map.pan(0.1 / this.map.zoom, 0), ArrowRight: () => this.map.pan(-0.1 / this.map.zoom, 0),
      ArrowUp: () => this.map.pan(0, 0.1 / this.map.zoom), ArrowDown: () => this.map.pan(0, -0.1 / this.map.zoom),
      a: () => this.keep("A"), b: () => this.keep("B"), c: () => this.parts.comparison.compare(),
      Escape: () => this.select(new Uint32Array(0), "replace", ""), "?": () => this.help(),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  help() {
    this.dialog.showModal();
  }

  select(rows, how, text) {
    const before = this.selection.rows;
    let chosen = rows;
    if (how !== "replace") {
      const mask = new Uint8Array(this.about.n_cells);
      for (const row of before) mask[row] = 1;
      for (const row of rows) mask[row] = how === "add" ? 1 : 0;
      chosen = Uint32Array.from(mask.keys()).filter((row) => mask[row]);
    }
    if (!chosen.length && !before.length) return;
    this.history.push(this.selection);
    if (this.history.length > 50) this.history.shift();
    this.nSelections += 1;
    const signs = { add: " + ", remove: " without " };
    const description = how === "replace" || !this.selection.text ? text : `${this.selection.text}${signs[how]}${text}`;
    this.setSelection({ id: this.nSelections, rows: chosen, text: description });
  }

  setSelection(selection) {
    this.selection = selection;
    this.map.setSelection(selection.rows);
    this.undoButton.disabled = !this.history.length;
    this.link.selected?.(selection.rows);
    for (const part of Object.values(this.parts)) part.show();
  }

  undo() {
    if (this.history.length) this.setSelection(this.history.pop());
  }

  // What a result belongs to: kept, so that it can be selected again.
  tag() {
    const { id, rows, text } = this.selection;
    this.kept.set(id, this.selection);
    return { id, n: rows.length, text };
  }

  selectAgain(tag) {
    const found = this.kept.get(tag.id);
    if (!found || found.id === this.selection.id) return;
    this.history.push(this.selection);
    this.setSelection(found);
  }

  keep(name) {
    if (!this.selection.rows.length) return;
    this.groups[name] = { rows: this.selection.rows, text: this.selection.text };
    this.parts.selection.show();
    this.parts.comparison.show();
    this.parts.sentences.show();
  }

  forget(name) {
    delete this.groups[name];
    this.parts.selection.show();
    this.parts.comparison.show();
    this.parts.sentences.show();
  }

  picture(format) {
    this.attempt(async () => {
      if (this.mapName === null) throw new Error("there is no map to draw");
      const { arrays } = await this.link.ask("figure", { format, map: this.mapName, kind: this.colour.kind, colour: this.colour.name });
      saveFile(`map.${format}`, [arrays.picture], format === "svg" ? "image/svg+xml" : "image/png");
    });
  }

  download() {
    this.attempt(async () => {
      const groups = Object.fromEntries(Object.entries(this.groups).map(([name, group]) => [name.toLowerCase(), group.rows]));
      await this.link.ask("groups", {}, groups);
      const anchor = el("a", { href: this.link.download, download: "" });
      this.root.append(anchor);
      anchor.click();
      anchor.remove();
    });
  }

  showLost(how) {
    if (!this.banner) return;
    fill(this.banner, how === "restarted"
      ? "The program was started again. Open the address that it printed; what is on this page stays until you leave it."
      : "The program that shows this page does not answer. What is on the page stays; trying again …");
    this.banner.hidden = false;
    clearTimeout(this.retry);
    if (how !== "restarted") {
      this.retry = setTimeout(async () => {
        try {
          await this.link.ask("about");
          this.banner.hidden = true;
        } catch { /* onlost was called again */ }
      }, 3000);
    }
  }

  // Start a job; its progress and errors are shown in `box`, its result is passed on.
  async run(work, settings, box, done) {
    const selection = this.tag();
    const rows = ["embed", "pca"].includes(work) ? {} : { rows: this.selection.rows };
    const step = el("div", {}, "waiting …");
    const bar = el("progress", { "aria-label": `Progress: ${work}` });
    const box2 = el("div", { class: "c2s-job" });
    const fail = (text) => fill(box, el("div", { class: "c2s-error", role: "alert" }, text));
    let job;
    try {
      job = (await this.link.ask("start", { work, settings, selection }, rows)).values.job;
    } catch (error) {
      fail(error.message);
      return;
    }
    const cancel = el("button", { onclick: async () => {
      cancel.disabled = true;
      try { await this.link.cancel(job); } catch (error) { fail(error.message); }
    } }, "Cancel");
    fill(box2, el("div", { class: "c2s-row" }, step, cancel), bar);
    fill(box, box2);
    this.link.follow(job, async (status) => {
      if (status.state === "failed") fail(status.message);
      else if (status.state === "cancelled") fill(box, el("p", { class: "c2s-muted", role: "status" }, "cancelled"));
      else if (status.state === "done") {
        try {
          const { values, arrays } = await this.link.ask("result", { job });
          fill(box);
          await done(values, arrays, status);
        } catch (error) {
          fail(error.message);
        }
      } else showProgress(status, step, bar);
    });
  }
}

function showProgress(status, step, bar) {
  if (status.state === "waiting") {
    fill(step, "waits for the job before it …");
    bar.removeAttribute("value");
    return;
  }
  const isModel = status.step === "model";
  const left = status.seconds_left === null ? "" : `, about ${status.seconds_left < 90 ? `${Math.ceil(status.seconds_left)} s` : `${Math.round(status.seconds_left / 60)} min`} left`;
  const counted = status.total > 1 && !isModel ? `: ${count(Math.floor(status.done))} of ${count(status.total)}` : "";
  fill(step, isModel && status.done < status.total ? "loading the model …" : `${status.step || "working"}${counted}${left}`);
  bar.max = Math.max(1, status.total);
  if (isModel || status.total === 0) bar.removeAttribute("value");
  else bar.value = status.done;
}

// Middle of the densest part of some points: a median of all may lie between two clouds, among other cells.
function densest(xs, ys, size) {
  const counts = new Map();
  let [best, most] = [0, 0];
  for (let i = 0; i < xs.length; i += 1) {
    const square = Math.floor(xs[i] / size) * 67108864 + Math.floor(ys[i] / size);
    counts.set(square, (counts.get(square) ?? 0) + 1);
  }
  for (const [square, n] of counts) if (n > most) [best, most] = [square, n];
  const u = Math.round(best / 67108864);
  const v = best - u * 67108864;
  const near = [[], []];
  for (let i = 0; i < xs.length; i += 1) {
    if (Math.abs(xs[i] / size - u - 0.5) < 1.5 && Math.abs(ys[i] / size - v - 0.5) < 1.5) {
      near[0].push(xs[i]);
      near[1].push(ys[i]);
    }
  }
  const median = (values) => new Float64Array(values).sort()[values.length >> 1];
  return { x: median(near[0]), y: median(near[1]) };
}
