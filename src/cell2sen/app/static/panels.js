// Panels beside the map: selection, actions with their results, comparison, sentences.
import { bars, cellsOf, changes, count, duration, el, fill, labelled, options, saveCsv, scatter, share, short, signed } from "./parts.js";

const section = (title, ...children) => el("section", { class: "c2s-section", "aria-label": title }, el("h2", {}, title), ...children);

export class Selection {
  constructor(page) {
    this.page = page;
    this.status = el("p", { role: "status" });
    this.body = el("div", {});
    this.holder = section("Selection", this.status, this.body);
  }

  show() {
    const { page } = this;
    const { rows, text } = page.selection;
    const n = page.about.n_cells;
    fill(this.status, rows.length
      ? [el("strong", {}, cellsOf(rows.length)), ` (${share(rows.length / n)})${text ? ` · ${text}` : ""}`]
      : "Select cells: draw round them on the map, click a name in the legend, or colour by a gene and set limits.");
    const groups = ["A", "B"].filter((name) => page.groups[name]).map((name) => el("span", {},
      el("strong", {}, name), `: ${cellsOf(page.groups[name].rows.length)} `,
      el("button", { class: "c2s-link", onclick: () => page.forget(name), "aria-label": `Forget group ${name}` }, "✕")));
    fill(this.body, rows.length > 0 && this.composition(rows), el("div", { class: "c2s-row" },
      ["A", "B"].map((name) => el("button", { disabled: !rows.length, onclick: () => page.keep(name) }, `Keep as ${name}`)),
      el("button", { disabled: !rows.length, onclick: () => page.select(new Uint32Array(0), "replace", "") }, "Clear"), groups,
      page.groups.A && page.groups.B && el("button", { class: "c2s-main", onclick: () => page.parts.comparison.compare() }, "Compare A with B")));
  }

  composition(rows) {
    const { colour } = this.page;
    if (!colour || colour.kind === "none") return null;
    if (colour.kind !== "label") {
      const found = new Float64Array(rows.length);
      let [n, above] = [0, 0];
      for (const row of rows) {
        const value = colour.values[row];
        if (!Number.isFinite(value)) continue;
        found[n++] = value;
        if (value > 0) above += 1;
      }
      const values = found.subarray(0, n).sort();
      if (!n) return el("p", { class: "c2s-small" }, `${colour.name}: no values`);
      const at = (part) => short(values[Math.min(values.length - 1, Math.floor(part * values.length))]);
      return el("p", { class: "c2s-small" }, `${colour.name}: median ${at(0.5)}, middle half ${at(0.25)} to ${at(0.75)}; above 0 in ${share(above / values.length)}`);
    }
    const counts = new Map();
    for (const row of rows) counts.set(colour.codes[row], (counts.get(colour.codes[row]) ?? 0) + 1);
    const found = [...counts].sort((a, b) => b[1] - a[1]);
    return [bars(found.slice(0, 8).map(([code, n]) => ({
      name: code < 0 ? "no value" : colour.names[code], value: n, text: `${count(n)} · ${share(n / rows.length)}`, colour: code < 0 ? "" : colour.shown?.[code],
    })), found[0][1], `Composition of the selection by ${colour.name}`),
    found.length > 8 && el("p", { class: "c2s-muted c2s-small" }, `and ${count(found.length - 8)} more`)];
  }
}

export class Actions {
  constructor(page) {
    this.page = page;
    this.forms = { Annotate: this.annotate(), Predict: this.perturb(), Transfer: this.transfer(), Ask: this.ask() };
    this.tabs = Object.keys(this.forms).map((name, i) => el("button", {
      role: "tab", id: `${page.prefix}-tab-${name}`, "aria-selected": "false", "aria-controls": `${page.prefix}-form-${name}`, onclick: () => this.open(name),
      onkeydown: (event) => this.move(event, i),
    }, name));
    for (const [name, form] of Object.entries(this.forms)) {
      Object.assign(form, { id: `${page.prefix}-form-${name}` });
      form.setAttribute("role", "tabpanel");
      form.setAttribute("aria-labelledby", `${page.prefix}-tab-${name}`);
    }
    this.results = el("div", {});
    this.holder = el("div", {}, section("On these cells", el("div", { role: "tablist", "aria-label": "Jobs", class: "c2s-tabs" }, this.tabs), Object.values(this.forms)), this.results);
    this.shown = new Map();
    this.open("Annotate");
  }

  open(name) {
    for (const tab of this.tabs) {
      const chosen = tab.textContent === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      this.forms[tab.textContent].hidden = !chosen;
    }
  }

  move(event, at) {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const tab = this.tabs[(to + this.tabs.length) % this.tabs.length];
    this.open(tab.textContent);
    tab.focus();
  }

  // A form with a button whose text tells the number of cells, and a box for progress and errors.
  form(verb, fields, start, note, { isForecast = false } = {}) {
    const box = el("div", {});
    const button = el("button", { class: "c2s-main", onclick: () => start(box) });
    const time = el("span", { class: "c2s-muted c2s-small" });
    const form = el("div", { class: "c2s-form" }, fields, el("div", { class: "c2s-row" }, button, time), note && el("p", { class: "c2s-muted c2s-small" }, note), box);
    form.update = () => {
      const n = this.page.selection.rows.length;
      button.disabled = !n || form.isImpossible === true;
      fill(button, n ? verb(n) : "Select cells first");
      fill(time, isForecast && n ? this.page.forecastOf(n) : "");
    };
    form.update();
    return form;
  }

  update() {
    for (const form of Object.values(this.forms)) form.update();
  }

  show() {
    this.update();
    for (const result of this.shown.values()) result.mark();
  }

  annotate() {
    const labels = el("textarea", { rows: 2, placeholder: "the model's labels; or your own: CD4 T cell; B cell; monocyte" });
    const threshold = el("input", { type: "number", min: 0, max: 1, step: 0.05, value: 0.5 });
    const { model } = this.page.about;
    return this.form((n) => `Annotate ${cellsOf(n)}`, [
      labelled("Labels to choose from", labels), labelled("“unknown” below a probability of", threshold),
    ], (box) => this.page.run("annotate", { labels: labels.value, threshold: Number(threshold.value) }, box, (values, arrays, status) => this.annotated("Labels", values, status)),
    model.labels.length ? `${model.name} chooses among ${model.labels.length} labels.` : "", { isForecast: true });
  }

  transfer() {
    const { page } = this;
    const { model } = page.about;
    const threshold = el("input", { type: "number", min: 0, max: 1, step: 0.05, value: 0.5 });
    const column = el("select", {});
    const names = page.labelColumns();
    const reference = model.reference ? [""] : [];
    options(column, [...reference, ...names], model.reference ? "" : page.about.first_colour, [...reference.map(() => `${model.reference_label} of ${model.reference}`), ...names]);
    return this.form((n) => `Carry labels over to ${cellsOf(n)}`, [
      labelled("Labels", column), labelled("“unknown” below a probability of", threshold),
    ], (box) => page.run("transfer", { column: column.value, threshold: Number(threshold.value) }, box, (values, arrays, status) => this.annotated("Transferred labels", values, status)),
    model.reference ? "" : "From the cells that are not selected. Another file: start with --reference FILE --label COLUMN.");
  }

  ask() {
    const { model } = this.page.about;
    const question = el("textarea", { rows: 2, placeholder: "What distinguishes these cells?" });
    const form = this.form(() => "Ask about 10 of these cells", [labelled("Question", question)],
      (box) => this.page.run("ask", { question: question.value }, box, (values, arrays, status) => this.answered(values, status)),
      model.writes_text ? "" : `${model.name} was not trained to write text; start with --model and one that was.`);
    form.isImpossible = !model.writes_text;
    form.update();
    return form;
  }

  perturb() {
    const { page } = this;
    const { model, contrast } = page.about;
    const list = el("datalist", { id: `c2s-perturbations-${Math.random().toString(36).slice(2)}` }, model.perturbations.map((name) => el("option", { value: name })));
    const known = contrast.column && model.perturbations.find((name) => contrast.columns[contrast.column].includes(name));
    const name = el("input", { type: "text", list: list.id, autocomplete: "off", value: known || model.perturbations.find((text) => /IFN/i.test(text)) || "" });
    const force = el("input", { type: "checkbox", id: `c2s-force-${list.id}` });
    const [column, control, treated, label] = [0, 0, 0, 0].map(() => el("select", {}));
    const none = ["", "none: all cells are untreated"];
    const columns = Object.keys(contrast.columns);
    options(column, ["", ...columns], contrast.column ?? "", [none[1], ...columns]);
    options(label, ["", ...page.labelColumns()], page.about.first_colour ?? "", ["any cell", ...page.labelColumns()]);
    const values = el("div", { class: "c2s-pair" }, labelled("Controls", control), labelled("Treated (measured)", treated), labelled("Compare within", label));
    const follow = () => {
      const found = contrast.columns[column.value] ?? [];
      values.hidden = !column.value;
      options(control, found, column.value === contrast.column ? contrast.control : found[0]);
      const others = found.filter((text) => text !== control.value);
      options(treated, ["", ...others], others.find((text) => text === name.value) ?? (others.length === 1 ? others[0] : ""), ["nothing measured", ...others]);
    };
    column.onchange = follow;
    follow();
    this.predictAll = (n, box) => page.run("perturb", {
      perturbation: name.value, force: force.checked, column: column.value, control: control.value, treated: treated.value, label: label.value, n,
    }, box, (found, arrays, status) => this.predicted(found, arrays, status));
    return this.form((n) => `Predict the response of ${n > 32 ? `32 of ${cellsOf(n)}` : cellsOf(n)}`, [
      labelled("Perturbation", name), list,
      el("div", { class: "c2s-check" }, force, el("label", { htmlFor: force.id }, "names that the model does not know, too (they mean nothing to it)")),
      labelled("Measured cells beside it: column", column), values,
    ], (box) => this.predictAll(32, box),
    model.perturbations.length ? `${model.name} knows ${model.perturbations.length} perturbations; type to search.` : "");
  }

  // A panel of results, which tells when another selection is shown.
  result(key, title, values, status, ...children) {
    const { page } = this;
    const tag = values.selection;
    const stale = el("p", { class: "c2s-stale" });
    const holder = section(title,
      el("p", { class: "c2s-muted c2s-small" }, `Of ${cellsOf(tag.n)}${tag.text ? ` · ${tag.text}` : ""}; took ${duration(status.seconds)}`), stale,
      status.notes.map((note) => el("p", { class: "c2s-note" }, note)), ...children);
    holder.mark = () => {
      stale.hidden = page.selection.id === tag.id;
      fill(stale, "Not of the cells that are selected now. ", el("button", { class: "c2s-link", onclick: () => page.selectAgain(tag) }, "Select its cells again"));
    };
    holder.mark();
    holder.dataset.result = key;
    this.shown.get(key)?.remove();
    this.shown.set(key, holder);
    this.results.prepend(holder);
  }

  async annotated(title, values, status) {
    const { page } = this;
    const total = Object.values(values.counts).reduce((a, b) => a + b, 0);
    await page.refresh();
    await page.colourBy("column", values.column);
    const colours = Object.fromEntries(page.colour.names.map((name, i) => [name, page.colour.shown?.[i]]));
    const unknown = values.n_unknown > 0 ? ` ${cellsOf(values.n_unknown)} (${share(values.n_unknown / total)}) below ${values.threshold}: “unknown”.` : "";
    this.result(title, title, values, status,
      el("h3", {}, "Cells of each label"),
      bars(Object.entries(values.counts).map(([name, n]) => ({ name, value: n, text: `${count(n)} · ${share(n / total)}`, colour: colours[name] })), Math.max(...Object.values(values.counts)), "Cells of each label"),
      el("h3", {}, "Mean probability"),
      bars(values.means.filter(([, mean], i) => mean >= 0.005 || i < 3).map(([name, mean]) => ({ name, value: mean, text: share(mean), colour: colours[name] })), 1, "Mean probability of each label"),
      el("p", { class: "c2s-small" }, values.calibrated ? "The probabilities were calibrated on held-out cells." : "The probabilities are not calibrated: they tell the order, not how often a label is right.", unknown,
        values.n_unseen > 0 ? ` ${cellsOf(values.n_unseen)} are less like the labelled cells than 99 % of these.` : "",
        values.held_out ? ` Accuracy on held-out labelled cells: ${share(values.held_out)}.` : ""),
      el("div", { class: "c2s-row" },
        el("button", { onclick: () => page.colourBy("column", values.score) }, "Colour by probability"),
        el("button", { onclick: () => saveCsv("labels.csv", ["label", "cells", "mean probability"], Object.keys({ ...values.counts, ...Object.fromEntries(values.means) }).map((name) => [name, values.counts[name] ?? 0, new Map(values.means).get(name) ?? NaN])) }, "CSV")));
  }

  answered(values, status) {
    const list = (name, text) => values[name].length > 0 && el("p", { class: "c2s-small" }, `${text}: ${values[name].join(", ")}`);
    this.result("Answer", "Answer", values, status, el("p", { class: "c2s-muted" }, values.question), el("p", {}, values.text, values.complete ? "" : " …"),
      el("p", { class: "c2s-muted c2s-small" }, `Read from ${cellsOf(values.cells.length)}. A model's text can be wrong; genes that it names:`),
      list("present", "expressed by these cells"), list("absent", "not expressed by them"), list("unmeasured", "not in the file"));
  }

  predicted(values, arrays, status) {
    const { page } = this;
    const { genes } = values;
    const { predicted, control, measured } = arrays;
    const order = [...genes.keys()].sort((a, b) => predicted[b] - predicted[a]);
    const up = order.slice(0, values.n_changed).filter((i) => predicted[i] > 0.005);
    const down = order.slice(-values.n_changed).reverse().filter((i) => predicted[i] < -0.005);
    const kinds = measured ? ["predicted", "measured"] : ["predicted"];
    const rows = (chosen) => chosen.map((i) => {
      const both = measured ? [predicted[i], measured[i]] : [predicted[i]];
      return {
        name: genes[i], values: both.map((v) => (Number.isFinite(v) ? v : null)), texts: both.map((v) => (Number.isFinite(v) ? signed(v) : "–")),
        title: `${genes[i]}: ${short(control[i])} before`, onclick: () => page.colourBy("gene", genes[i]),
      };
    });
    const contexts = values.basis.filter((row) => row.context);
    const basis = contexts.length
      ? `From the responses of training cells: ${contexts.map((row) => `${row.context} (${count(row.perturbed_cells)})`).join(", ")}${contexts[0].model_share ? "; a share by the model" : ""}.`
      : "The model's own prediction: no training cells had this perturbation.";
    const unlike = values.basis[0]?.unlike > 0.5 ? el("p", { class: "c2s-note" }, "Most of these cells are unlike the training cells with this perturbation.") : null;
    const all = values.n_candidates > values.n_cells && el("button", { onclick: () => { page.selectAgain(values.selection); this.predictAll(0, box); } },
      `All ${cellsOf(values.n_candidates)} (about ${duration(values.seconds_per_cell * values.n_candidates)})`);
    const box = el("div", {});
    const table = () => saveCsv("response.csv", ["gene", "control", "predicted change", ...(measured ? ["measured change"] : [])],
      order.map((i) => [genes[i], control[i], predicted[i], ...(measured ? [measured[i]] : [])]));
    this.result("Response", `Response to ${values.perturbation}`, values, status,
      el("p", {}, `Mean change of ${cellsOf(values.n_cells)}${values.n_candidates > values.n_cells ? `, drawn from ${count(values.n_candidates)} untreated ones` : ""}, in ln(1 + CP10k). ${basis}`), unlike,
      values.groups && this.measuredNote(values, measured),
      el("h3", {}, "Rise most"), up.length ? changes(rows(up), kinds, "Genes that rise most") : el("p", {}, "none"),
      el("h3", {}, "Fall most"), down.length ? changes(rows(down), kinds, "Genes that fall most") : el("p", {}, "none"),
      measured && this.points(genes, predicted, measured),
      el("div", { class: "c2s-row" }, all, el("button", { onclick: table }, "CSV")), box);
  }

  measuredNote(values, measured) {
    const groups = values.groups.map((g) => `${g.label}: ${count(g.n_control)} control, ${count(g.n_treated)} treated`).join("; ");
    return [
      el("p", { class: "c2s-small" }, measured ? `Measured within the same label only: ${groups}.` : `Nothing was measured for these labels: ${groups}.`,
        values.correlation === null ? "" : ` Correlation of both changes over all genes: ${values.correlation.toFixed(2)}.`, " For a judgement with held-out cells and rivals: cell2sen evaluate."),
      measured && values.few.length > 0 && el("p", { class: "c2s-note" }, `Fewer than ${values.few_cells} cells on one side, so that the measured change is uncertain: ${values.few.join(", ")}.`)];
  }

  points(genes, predicted, measured) {
    const found = genes.map((name, i) => ({ name, x: measured[i], y: predicted[i] }))
      .filter((p) => Number.isFinite(p.x) && Math.max(Math.abs(p.x), Math.abs(p.y)) > 0.05)
      .sort((a, b) => Math.abs(b.x) + Math.abs(b.y) - Math.abs(a.x) - Math.abs(a.y)).slice(0, 1500);
    return [el("h3", {}, "Predicted over measured"), scatter(found, "measured change", "predicted change", (name) => this.page.colourBy("gene", name))];
  }
}

export class Comparison {
  constructor(page) {
    this.page = page;
    this.body = el("div", {});
    this.holder = section("A and B", this.body);
    this.holder.hidden = true;
  }

  show() {
    const { A, B } = this.page.groups;
    if (!this.found || (A === this.found.A && B === this.found.B)) return;
    this.stale ??= el("p", { class: "c2s-stale" }, "Of earlier groups A and B.");
    this.body.prepend(this.stale);
  }

  async compare() {
    const { page } = this;
    const { A, B } = page.groups;
    if (!A || !B) return;
    await page.attempt(async () => {
      const { values, arrays } = await page.link.ask("compare", {}, { a: A.rows, b: B.rows });
      this.found = { A, B };
      this.draw(values, arrays);
    });
  }

  draw(values, arrays) {
    const { page } = this;
    const { genes } = values;
    const list = (difference, text) => {
      const order = [...genes.keys()].sort((i, j) => difference[j] - difference[i]);
      const rows = (chosen) => chosen.filter((i) => Math.abs(difference[i]) > 1e-3).map((i) => ({
        name: genes[i], values: [difference[i]], texts: [signed(difference[i])], title: text(i), onclick: () => page.colourBy("gene", genes[i]),
      }));
      return [rows(order.slice(0, 12)), rows(order.slice(-12).reverse())];
    };
    const shares = arrays.share_a.map((value, i) => value - arrays.share_b[i]);
    const means = arrays.mean_a.map((value, i) => value - arrays.mean_b[i]);
    const pairs = [
      ["Share of cells with the gene in their sentence, A minus B", list(shares, (i) => `${genes[i]}: ${share(arrays.share_a[i])} of A, ${share(arrays.share_b[i])} of B`)],
      ["Mean ln(1 + CP10k), A minus B", list(means, (i) => `${genes[i]}: ${short(arrays.mean_a[i])} in A, ${short(arrays.mean_b[i])} in B`)],
    ];
    this.holder.hidden = false;
    this.stale = undefined;
    fill(this.body,
      el("p", {}, `A: ${cellsOf(values.n_a)}; B: ${cellsOf(values.n_b)}${values.shared ? `; ${cellsOf(values.shared)} in both` : ""}. No test: cells are not replicates.`),
      this.composition(),
      pairs.map(([title, [up, down]]) => [el("h3", {}, title), changes([...up, ...down], ["A minus B"], title)]),
      el("div", { class: "c2s-row" }, el("button", {
        onclick: () => saveCsv("comparison.csv", ["gene", "share A", "share B", "mean A", "mean B"],
          genes.map((gene, i) => [gene, arrays.share_a[i], arrays.share_b[i], arrays.mean_a[i], arrays.mean_b[i]])),
      }, "CSV")));
  }

  composition() {
    const { colour, groups } = this.page;
    if (colour?.kind !== "label") return null;
    const shares = [groups.A, groups.B].map(({ rows }) => {
      const counts = new Float64Array(colour.names.length);
      for (const row of rows) if (colour.codes[row] >= 0) counts[colour.codes[row]] += 1 / rows.length;
      return counts;
    });
    const codes = colour.names.map((_, code) => code).filter((code) => shares[0][code] + shares[1][code] > 0)
      .sort((i, j) => shares[0][j] + shares[1][j] - shares[0][i] - shares[1][i]).slice(0, 12);
    return el("table", { class: "c2s-table" }, el("thead", {}, el("tr", {}, [colour.name, "A", "B"].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, codes.map((code) => el("tr", {}, el("td", {}, colour.names[code]), shares.map((part) => el("td", {}, share(part[code])))))));
  }
}

const MARKS = { different: "differs", shared: "shared", position: "position", attention: "attention of a cell" };

export class Sentences {
  constructor(page) {
    this.page = page;
    this.mark = el("select", { onchange: () => this.draw() });
    options(this.mark, Object.keys(MARKS), "different", Object.values(MARKS));
    this.against = el("select", { onchange: () => this.load() });
    this.controls = el("div", { class: "c2s-row" }, labelled("Mark genes by", this.mark), labelled("Compared with", this.against),
      el("button", { onclick: () => this.copy() }, "Copy"));
    this.status = el("p", { class: "c2s-muted c2s-small", role: "status" });
    this.body = el("div", {});
    this.box = el("div", {});
    this.holder = section("Cell sentences", this.controls, this.status, this.box, this.body);
    this.holder.hidden = true;
    this.length = 40;
  }

  show() {
    const { rows } = this.page.selection;
    this.holder.hidden = !rows.length;
    const groups = Object.keys(this.page.groups);
    options(this.against, ["", ...groups], this.against.value, ["all other cells", ...groups.map((name) => `group ${name}`)]);
    clearTimeout(this.waiting);
    if (rows.length) this.waiting = setTimeout(() => this.load(), 60);
  }

  async load() {
    const { page } = this;
    const { id, rows } = page.selection;
    const group = page.groups[this.against.value];
    if (this.loaded === `${id} ${this.against.value} ${group?.rows.length}`) return;
    this.loaded = `${id} ${this.against.value} ${group?.rows.length}`;
    const { loaded } = this;
    fill(this.status, "writing sentences …");
    try {
      const { values } = await page.link.ask("sentences", { seed: 0 }, group ? { rows, others: group.rows } : { rows });
      if (this.loaded !== loaded) return;
      this.values = values;
      this.attention = null;
      this.length = 40;
      this.draw();
    } catch (error) {
      this.loaded = undefined;
      fill(this.status, error.message);
    }
    page.forecast(() => page.parts.actions.update()); // after the sentences: it imports libraries, which takes seconds
  }

  // Class, sign and text of a gene under the chosen mark.
  style(gene, cell) {
    const [own, rest, place, other] = this.values.genes[gene] ?? [0, 0, 0, 0];
    const percent = `in the sentences of ${share(own)} of these cells and ${share(rest)} of the others`;
    const kind = this.mark.value;
    if (kind === "attention") {
      const weight = this.attention?.row === cell?.row ? this.attention.weights.get(gene) ?? 0 : 0;
      return { level: weight > 0.5 ? 2 : weight > 0.2 ? 1 : 0, sign: weight > 0.5 ? "●" : weight > 0.2 ? "○" : "", title: `attention ${short(weight)} of the most` };
    }
    if (kind === "shared") return { level: own > 0.9 ? 2 : own > 0.7 ? 1 : 0, sign: own > 0.9 ? "●" : own > 0.7 ? "○" : "", title: percent };
    if (kind === "position") {
      const moved = other - place;
      return { level: Math.sign(moved) * (Math.abs(moved) > 30 ? 2 : Math.abs(moved) > 12 ? 1 : 0), sign: moved > 12 ? "▲" : moved < -12 ? "▼" : "", title: `mean place ${place.toFixed(0)} here, ${other.toFixed(0)} in the others` };
    }
    const difference = own - rest;
    return { level: Math.sign(difference) * (Math.abs(difference) > 0.35 ? 2 : Math.abs(difference) > 0.15 ? 1 : 0), sign: difference > 0.15 ? "▲" : difference < -0.15 ? "▼" : "", title: percent };
  }

  classOf({ level }) {
    return [level > 0 ? "c2s-up" : level < 0 ? "c2s-down" : "", Math.abs(level) > 1 ? "c2s-strong" : ""].join(" ");
  }

  gene(name, cell) {
    const style = this.style(name, cell);
    return [el("span", {
      class: `c2s-gene ${this.classOf(style)}`, title: `${name}: ${style.title}`, onclick: () => this.page.colourBy("gene", name),
    }, `${name}${style.sign}`), " "];
  }

  draw() {
    const { values, page } = this;
    if (!values) return;
    const drawn = values.cells.length < values.n ? `${values.cells.length} of ${cellsOf(values.n)}, drawn at random` : cellsOf(values.n);
    const explained = {
      different: "▲ and ▼: in more or fewer sentences than those of the others.", shared: "● and ○: in more than 90 and 70 % of these sentences.",
      position: "▲ and ▼: nearer to the beginning or the end than in the others.", attention: "● and ○: genes that the model attends to most in one cell. Choose one.",
    }[this.mark.value];
    fill(this.status, `${drawn}. ${explained} Click a gene to colour the map.`);
    const chips = this.mark.value === "different" && values.different.length > 0 && [
      el("h3", {}, "More often here"),
      el("div", { class: "c2s-chips" }, values.different.slice(0, 24).filter((gene) => values.genes[gene][0] - values.genes[gene][1] > 0.05).map((gene) => {
        const style = this.style(gene);
        return el("button", { class: this.classOf(style), title: `${gene}: ${style.title}`, onclick: () => page.colourBy("gene", gene) }, `${gene} +${Math.round(100 * (values.genes[gene][0] - values.genes[gene][1]))}`);
      }))];
    const longest = Math.max(...values.cells.map((cell) => cell.genes.length));
    fill(this.body, chips, values.cells.map((cell) => el("div", { class: "c2s-sentence" },
      el("div", { class: "c2s-cellname" }, `${cell.name} · ${page.valueOf(cell.row)}`,
        this.mark.value === "attention" && el("button", { class: "c2s-link", onclick: () => this.attend(cell) }, "show attention")),
      cell.genes.length ? cell.genes.slice(0, this.length).map((gene) => this.gene(gene, cell)) : "no gene is expressed")),
    longest > this.length && el("button", { onclick: () => { this.length = longest; this.draw(); } }, `More genes (${longest})`));
  }

  attend(cell) {
    this.page.run("attention", { row: cell.row }, this.box, (values, arrays) => {
      this.attention = { row: values.row, weights: new Map(values.genes.map((gene, i) => [gene, arrays.attention[i]])) };
      this.draw();
    });
  }

  async copy() {
    const text = this.values.cells.map((cell) => `${cell.name}\t${cell.genes.join(" ")}`).join("\n");
    try {
      await navigator.clipboard.writeText(text);
      fill(this.status, "Copied: names and sentences of the cells below.");
    } catch {
      fill(this.status, "The browser did not allow to copy.");
    }
  }
}
