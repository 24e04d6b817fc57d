"use strict";
// What every report shares: unpacking data, tables that sort, filter and open, charts that follow the page's width.
const Report = (() => {
  const byId = (id) => document.getElementById(id);

  // Script data are JSON, gzipped, as base64 (medseg3d.report.page.packed).
  async function unpack(id) {
    const text = byId(id).textContent.trim();
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function problem(error) {
    const box = byId("script-problem");
    box.hidden = false;
    box.textContent = typeof DecompressionStream === "undefined"
      ? "This browser is too old to unpack charts and pictures; text and tables are complete. Any browser since 2023 can."
      : `Charts or pictures could not be drawn (${error}). Text and tables are complete.`;
    console.error(error);
  }

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in node && typeof value !== "string") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };

  const number = (value, digits) => {
    if (value === null || value === undefined) return "–";
    if (value === "inf") return "∞";
    return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace(/,/g, "\u202f").replace("-", "−");
  };

  // ---- tables ----------------------------------------------------------------------------------------------------
  const dataRows = (table) => [...table.tBodies[0].rows].filter((row) => !row.classList.contains("detail"));

  function sortKey(cell) {
    if (!cell) return null;
    const raw = cell.dataset.sort;
    if (raw === undefined) return cell.textContent.trim().toLowerCase();
    return raw === "" ? null : isNaN(raw) ? raw : Number(raw);
  }

  function sortBy(table, column, direction) {
    table.querySelectorAll("tr.detail").forEach((row) => row.remove());
    const rows = dataRows(table).map((row) => [sortKey(row.cells[column]), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // missing values last, either way
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return direction * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    collapse(table);
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const button = make("button", { class: "sort", type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        // A first click on numbers asks for the smallest, as what is worst is usually looked for.
        const next = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        sortBy(table, column, next === "ascending" ? 1 : -1);
      });
    });
  }

  // Rows beyond the first few are closed until they are asked for or filtered for.
  function collapse(table) {
    const box = table.closest(".table-box");
    const shown = Number(box.dataset.shown) || Infinity;
    const filter = (box.querySelector("input[type=search]")?.value || "").trim().toLowerCase();
    let matches = 0;
    for (const row of dataRows(table)) {
      const match = !filter || row.textContent.toLowerCase().includes(filter);
      row.hidden = !match || (!filter && matches >= shown && box.dataset.open !== "yes");
      matches += match;
    }
    const told = box.querySelector(".filter-count");
    if (told) told.textContent = filter ? `${matches} of ${dataRows(table).length}` : "";
    const button = box.querySelector("button.more");
    if (button) {
      button.hidden = Boolean(filter);
      button.textContent = box.dataset.open === "yes" ? `Show only the first ${shown}` : `Show all ${dataRows(table).length}`;
    }
  }

  function prepareTable(table) {
    sortable(table);
    const box = table.closest(".table-box");
    if (!box) return;
    if (box.dataset.shown) {
      const button = make("button", { class: "plain more", type: "button" });
      button.addEventListener("click", () => { box.dataset.open = box.dataset.open === "yes" ? "" : "yes"; collapse(table); });
      box.append(button);
    }
    box.querySelector("input[type=search]")?.addEventListener("input", () => collapse(table));
    collapse(table);
  }

  // Go to a row, wherever filters and collapsed parts have hidden it.
  function reveal(row) {
    const box = row.closest(".table-box");
    const filter = box?.querySelector("input[type=search]");
    if (filter) filter.value = "";
    if (row.hidden && box) box.dataset.open = "yes";
    if (box) collapse(row.closest("table"));
    document.querySelectorAll("tr.found").forEach((other) => other.classList.remove("found"));
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
    row.querySelector("a, button")?.focus({ preventScroll: true });
  }

  // ---- charts ----------------------------------------------------------------------------------------------------
  // Without a mouse the buttons would always be there, over legends, and are too small to be touched.
  const displayModeBar = matchMedia("(hover: hover)").matches ? "hover" : false;
  const config = { displaylogo: false, responsive: true, displayModeBar, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const plots = new Set();

  async function plot(target, data, layout, more = {}) {
    await Plotly.react(target, data, layout, { ...config, ...more });
    plots.add(target);
    return target;
  }

  // Charts as medseg3d.report.charts makes them, by the id of their element.
  async function drawCharts(charts) {
    for (const [id, chart] of Object.entries(charts)) {
      const target = byId(id);
      if (target) await plot(target, chart.data, chart.layout);
    }
  }

  // On paper a chart has the width of its column there. Plotly.Plots.resize would come too late: it waits first.
  const fit = (width) => plots.forEach((target) => {
    if (target.isConnected && target.clientWidth) Plotly.relayout(target, width(target));
  });
  addEventListener("beforeprint", () => {
    document.body.classList.add("printing"); // the measures of the page, which are in force a moment later
    fit((target) => ({ width: target.clientWidth, autosize: false }));
  });
  addEventListener("afterprint", () => {
    document.body.classList.remove("printing");
    fit(() => ({ width: null, autosize: true }));
  });

  // Who waits for the page to be complete, such as a test, looks at data-waiting of the root.
  let waiting = 0;
  const tell = (by) => { waiting += by; document.documentElement.dataset.waiting = String(waiting); };
  const ready = (work) => {
    tell(1);
    const run = () => Promise.resolve().then(work).catch(problem).finally(() => tell(-1));
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", run); else run();
  };
  ready(() => {
    document.querySelectorAll("table.sortable").forEach(prepareTable);
    const follow = () => {
      const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
      if (target && target.tagName === "TR") reveal(target);
    };
    addEventListener("hashchange", follow);
    follow();
  });
  return { byId, unpack, make, number, reveal, plot, drawCharts, ready, problem, dataRows };
})();
