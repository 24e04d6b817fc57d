"use strict";
// Charts of a comparison that the reader steers.
Report.ready(async () => {
  const { byId, make, plot, reveal } = Report;
  const data = await Report.unpack("comparison-data"), { methods, metrics, labels, values } = data.cases;
  const INK = "#1d2733", metric = byId("line-metric"), label = byId("line-label"), target = byId("line-chart");

  function lines() {
    const rows = values[metric.value]?.[label.value] || [];
    const colour = labels.find((entry) => entry.name === label.value)?.colour || INK;
    const x = [], y = [], text = [];
    for (const [name, ...ofMethods] of rows) { // one trace for all cases, cut by nulls: quick with a thousand
      ofMethods.forEach((value, i) => { x.push(i); y.push(value); text.push(name); });
      x.push(null); y.push(null); text.push("");
    }
    const many = rows.length > 150;
    const boxes = methods.map((name, i) => ({
      type: "box", x0: i, y: rows.map((row) => row[i + 1]).filter((v) => v !== null), name, boxpoints: false, width: 0.16, hoverinfo: "skip",
      line: { color: INK, width: 1.4 }, fillcolor: "rgba(255,255,255,0.75)", showlegend: false,
    }));
    const layout = JSON.parse(JSON.stringify(data.layout));
    Object.assign(layout, { height: 420, showlegend: false });
    Object.assign(layout.xaxis, { tickvals: methods.map((_, i) => i), ticktext: methods.map((name) => name.replace(/</g, "&lt;")), range: [-0.35, methods.length - 0.65], showgrid: false });
    layout.yaxis.title.text = metrics.find((m) => m.key === metric.value)?.heading || "";
    return [[{
      type: "scatter", mode: "lines+markers", x, y, customdata: text, connectgaps: false,
      line: { color: many ? "rgba(90,103,117,0.18)" : "rgba(90,103,117,0.4)", width: 1 },
      marker: { color: colour, size: many ? 4 : 7, line: { color: INK, width: many ? 0.2 : 0.6 } },
      hovertemplate: "%{customdata}<br>%{y}<extra></extra>", showlegend: false,
    }, ...boxes], layout];
  }

  let follows = false;
  async function drawLines() {
    if (!target) return;
    await plot(target, ...lines());
    if (follows) return;
    follows = true;
    target.on("plotly_click", (event) => {
      const name = event.points[0]?.customdata;
      const rows = [...document.querySelectorAll("#cases tr[data-key]")];
      const row = rows.find((r) => r.dataset.key === `${name}\n${label.value}`) || rows.find((r) => r.dataset.key.split("\n")[0] === name);
      if (row) reveal(row);
    });
  }
  if (target) {
    metric.append(...metrics.map((m) => make("option", { value: m.key }, m.heading)));
    label.append(...labels.map((entry) => make("option", { value: entry.name }, entry.name)));
    metric.addEventListener("change", drawLines);
    label.addEventListener("change", drawLines);
    await drawLines();
  }
  await Report.drawCharts(data.fixed);
});
