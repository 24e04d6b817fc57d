"use strict";
// Charts of an evaluation that the reader steers: distributions, Bland–Altman, a case's own numbers.
Report.ready(async () => {
  const { byId, make, number, plot, reveal } = Report;
  const [data, charts] = await Promise.all([Report.unpack("case-data"), Report.unpack("chart-data")]);
  const colours = new Map(data.labels.map((label) => [label.name, label.colour]));
  const INK = "#1d2733";
  // As many structures at once as stay legible, and as many points as stay quick.
  const MOST = Math.max(2, Math.min(12, Math.floor(12000 / Math.max(1, data.cases.length))));
  const rowOf = new Map([...document.querySelectorAll("#cases tr[data-key]")].map((row) => [row.dataset.key, row]));

  const spread = (metric, label) => data.values[metric][label];
  const median = (values) => {
    const known = values.filter((v) => typeof v === "number").sort((a, b) => a - b);
    return known.length ? known[Math.floor(known.length / 2)] : Infinity;
  };
  const ranked = data.labels.map((label) => label.name);
  if (ranked.length > MOST && data.values.dice) {
    const medians = new Map(ranked.map((name) => [name, median(data.values.dice[name])]));
    ranked.sort((a, b) => medians.get(a) - medians.get(b));
  }
  let chosen = new Set(ranked.slice(0, MOST));
  const chosenLabels = () => data.labels.map((label) => label.name).filter((name) => chosen.has(name));

  // ---- which structures ------------------------------------------------------------------------------------------
  function fillPicker() {
    const picker = byId("label-picker");
    if (data.labels.length < 2) return;
    picker.hidden = false;
    const chips = make("div", { class: "chips", role: "group", "aria-label": "Structures in the charts" });
    // A structure's name in the table of structures leads to its distribution.
    for (const row of document.querySelectorAll("#labels tr[data-key]")) row.querySelector("a")?.addEventListener("click", () => choose(row.dataset.key));
    for (const label of data.labels) {
      const chip = make("button", { type: "button", class: "chip" }, make("span", { class: "swatch", style: `background:${label.colour}` }), label.name);
      chip.dataset.name = label.name;
      chip.addEventListener("click", () => {
        if (!chosen.has(label.name)) return choose(label.name);
        if (chosen.size > 1) chosen.delete(label.name);
        return follow();
      });
      chips.append(chip);
    }
    if (data.labels.length > MOST) {
      const search = make("input", { type: "search", placeholder: "find a structure", "aria-label": "Find a structure" });
      search.addEventListener("input", () => {
        for (const chip of chips.children) chip.hidden = !chip.dataset.name.toLowerCase().includes(search.value.trim().toLowerCase());
      });
      picker.append(search, make("span", { class: "small" }, `The ${MOST} with the lowest median Dice are chosen; up to ${MOST} at once.`));
    }
    picker.append(chips);
  }

  function choose(name) {
    if (chosen.has(name)) return null;
    if (chosen.size >= MOST) chosen.delete(chosen.values().next().value);
    chosen.add(name);
    return follow();
  }

  const markChips = () => document.querySelectorAll("#label-picker .chip").forEach((chip) => chip.setAttribute("aria-pressed", String(chosen.has(chip.dataset.name))));

  // ---- distributions ---------------------------------------------------------------------------------------------
  function distribution(metric) {
    const labels = chosenLabels();
    const finite = labels.flatMap((label) => spread(metric.key, label).filter((v) => typeof v === "number"));
    const edge = finite.length ? Math.max(...finite) : 1;
    const beyond = edge + 0.08 * (edge - Math.min(0, ...finite) || 1);
    let infinite = 0;
    const traces = labels.flatMap((label) => {
      const values = spread(metric.key, label);
      const pick = (keep) => values.map((v, i) => [v, i]).filter(([v]) => keep(v));
      const known = pick((v) => typeof v === "number"), lost = pick((v) => v === "inf");
      infinite += lost.length;
      const points = known.length > 400 ? 3 : known.length > 100 ? 4 : 6;
      const common = { type: "box", orientation: "h", boxpoints: "all", pointpos: 0, jitter: 0.75, hoveron: "points", showlegend: false };
      return [
        { ...common, name: label, x: known.map(([v]) => v), y: known.map(() => label), customdata: known.map(([, i]) => i),
          fillcolor: "rgba(255,255,255,0)", line: { color: INK, width: 1.2 }, whiskerwidth: 0.4,
          text: known.map(([, i]) => data.cases[i]), hovertemplate: "%{text}<br>%{x}<extra>%{y}</extra>",
          marker: { color: colours.get(label), size: points, opacity: 0.8, line: { color: INK, width: points > 3 ? 0.6 : 0.2 } } },
        { ...common, name: `${label} infinite`, x: lost.map(() => beyond), y: lost.map(() => label), customdata: lost.map(([, i]) => i),
          fillcolor: "rgba(0,0,0,0)", line: { color: "rgba(0,0,0,0)", width: 0 },
          text: lost.map(([, i]) => data.cases[i]), hovertemplate: "%{text}<br>infinite: one side is empty<extra>%{y}</extra>",
          marker: { color: "#a8200d", size: 7, symbol: "x-thin", line: { color: "#a8200d", width: 1.6 } } },
      ].filter((trace) => trace.x.length);
    });
    const layout = JSON.parse(JSON.stringify(charts.layout));
    Object.assign(layout, { height: 90 + Math.max(170, 62 * labels.length), boxmode: "overlay", showlegend: false });
    layout.xaxis.title.text = metric.heading;
    if (["volume_difference_ml", "relative_volume_difference"].includes(metric.key)) Object.assign(layout.xaxis, { zeroline: true, zerolinecolor: "#6b7785" });
    Object.assign(layout.yaxis, { type: "category", categoryorder: "array", categoryarray: [...labels].reverse(), showgrid: false, ticks: "", range: [-0.6, labels.length - 0.4] });
    if (metric.share) layout.xaxis.range = [-0.03, 1.03];
    if (infinite) {
      layout.shapes = [{ type: "line", xref: "x", yref: "paper", x0: (edge + beyond) / 2, x1: (edge + beyond) / 2, y0: 0, y1: 1, line: { color: "#a8200d", width: 1, dash: "dot" } }];
      layout.annotations = [{ x: beyond, y: 1, xref: "x", yref: "paper", yanchor: "bottom", text: "∞", showarrow: false, font: { color: "#a8200d", size: 18 } }];
      layout.margin.t = 30;
    }
    if (!traces.length) layout.annotations = [{ text: "No case has a value here.", x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false }];
    return [traces, layout];
  }

  function goToCase(index) {
    const row = rowOf.get(data.cases[index]);
    if (row) { reveal(row); openDetail(row, true); }
  }

  const followsClicks = new WeakSet();
  async function drawClickable(target, traces, layout, more) {
    await plot(target, traces, layout, more);
    if (followsClicks.has(target)) return;
    followsClicks.add(target);
    target.on("plotly_click", (event) => {
      const index = event.points[0]?.customdata;
      if (index !== undefined) goToCase(index);
    });
  }

  const select = byId("distribution-metric");
  for (const metric of data.metrics) select.append(make("option", { value: metric.key }, metric.heading));
  const drawDistribution = () => {
    const metric = data.metrics.find((m) => m.key === select.value);
    return metric ? drawClickable(byId("distribution-chart"), ...distribution(metric)) : null;
  };
  select.addEventListener("change", drawDistribution);

  // ---- Bland–Altman ----------------------------------------------------------------------------------------------
  function blandAltman(label) {
    const ours = spread("volume_ml", label), truth = spread("reference_ml", label);
    const known = data.cases.map((_, i) => i).filter((i) => typeof ours[i] === "number" && typeof truth[i] === "number" && (ours[i] > 0 || truth[i] > 0));
    const layout = JSON.parse(JSON.stringify(charts.layout));
    Object.assign(layout, { height: 270, showlegend: false, shapes: [], annotations: [], margin: { l: 56, r: 14, t: 10, b: 46 } });
    layout.xaxis.title.text = `mean (${data.size.unit})`;
    layout.yaxis.title.text = `difference (${data.size.unit})`;
    Object.assign(layout.yaxis, { zeroline: true, zerolinecolor: "#9aa5b1" });
    const own = data.agreement[label];
    const line = (value, dash) => layout.shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: INK, width: 1.2, dash } });
    if (typeof own?.bias_ml === "number") line(own.bias_ml, "solid");
    for (const limit of own?.limits_ml || []) if (limit !== null) line(limit, "dash");
    if (!known.length) layout.annotations.push({ text: "No case has this structure.", x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false });
    const missed = (i) => data.status[label][i] === "m" || data.status[label][i] === "x";
    return [[{
      type: "scatter", mode: "markers", x: known.map((i) => (ours[i] + truth[i]) / 2), y: known.map((i) => ours[i] - truth[i]),
      customdata: known, text: known.map((i) => data.cases[i]), hovertemplate: `%{text}<br>mean %{x:.${data.size.digits}f} ${data.size.unit}, difference %{y:.${data.size.digits}f} ${data.size.unit}<extra></extra>`,
      marker: { color: colours.get(label), size: 7, symbol: known.map((i) => (missed(i) ? "x" : "circle")), line: { color: INK, width: 0.7 }, opacity: 0.85 },
    }], layout];
  }

  function agreementWords(own) {
    if (typeof own?.bias_ml !== "number") return "No bias: too few cases.";
    const { unit, digits } = data.size;
    const limits = own.limits_ml?.every((v) => v !== null) ? `, limits of agreement ${number(own.limits_ml[0], digits)} to ${number(own.limits_ml[1], digits)} ${unit}` : "";
    return `Bias ${number(own.bias_ml, digits)} ${unit}${limits}`;
  }

  async function drawAgreement() {
    const box = byId("agreement-charts");
    if (!box) return;
    const labels = chosenLabels();
    box.replaceChildren(...labels.map((label) => make("div", {}, make("h4", {}, make("span", { class: "swatch", style: `background:${colours.get(label)}` }), label), make("p", { class: "small" }, agreementWords(data.agreement[label])), make("div", { class: "plot", role: "img", "aria-label": `Bland–Altman plot of ${label}` }))));
    const parts = [...box.querySelectorAll(".plot")];
    for (let i = 0; i < labels.length; i++) await drawClickable(parts[i], ...blandAltman(labels[i]), { displayModeBar: false });
    byId("agreement-note").textContent = data.labels.length > labels.length ? `${labels.length} of ${data.labels.length} structures; choose others above the distributions.` : "Crosses are structures that only one side has.";
  }

  async function follow() { markChips(); await drawDistribution(); await drawAgreement(); }

  // ---- a case's own numbers --------------------------------------------------------------------------------------
  const words = { s: "scored", m: "missed", x: "spurious", e: "empty", " ": "not evaluated" };
  function openDetail(row, open) {
    const next = row.nextElementSibling;
    const isOpen = next?.classList.contains("detail");
    if (isOpen) { if (!open) next.remove(); return; }
    const index = data.cases.indexOf(row.dataset.key);
    const shown = [...data.metrics.filter((m) => m.key !== "relative_volume_difference"), { key: "volume_ml", heading: `${data.size.name[0].toUpperCase()}${data.size.name.slice(1)} (${data.size.unit})`, digits: data.size.digits }, { key: "reference_ml", heading: `Reference (${data.size.unit})`, digits: data.size.digits }].filter((m) => data.values[m.key]);
    const head = make("tr", {}, make("th", { scope: "col" }, "Structure"), make("th", { scope: "col" }, ""), ...shown.map((m) => make("th", { scope: "col", class: "n" }, m.heading)));
    const body = data.labels.filter((label) => ![" ", "e"].includes(data.status[label.name][index])).map((label) => {
      const status = data.status[label.name][index];
      return make("tr", {}, make("th", { scope: "row" }, make("span", { class: "swatch", style: `background:${label.colour}` }), label.name),
        make("td", { class: { m: "bad", x: "warn" }[status] || "muted" }, words[status]),
        ...shown.map((m) => make("td", { class: "n" }, number(data.values[m.key][label.name][index], m.digits))));
    });
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    const inner = body.length ? make("div", { class: "table-scroll" }, table) : "Every structure is empty on both sides.";
    row.after(make("tr", { class: "detail" }, make("td", { colspan: String(row.cells.length) }, inner)));
  }
  for (const row of rowOf.values()) {
    row.classList.add("opens");
    const button = make("button", { type: "button", class: "plain", style: "padding:0 .45rem;margin-left:.5rem", "aria-label": `All numbers of ${row.dataset.key}` }, "…");
    row.cells[0].append(button);
    row.addEventListener("click", (event) => { if (!event.target.closest("a") && !String(getSelection())) openDetail(row, false); });
  }

  fillPicker();
  await follow();
  await Report.drawCharts(charts.fixed);
});
