"use strict";
// A case in three planes and as surfaces; a 2D image, whose data names its `plane_unit`, in one. Volumes are stored x fastest, in RAS+ order (medseg3d.report.panels).
Report.ready(async () => {
  const { make, number } = Report;
  // Radiological convention: the patient's right, or front, is on the viewer's left; the head, or the front, is up.
  // `across` and `down` are axes of the volume; both run from high to low on the screen.
  const PLANES = [
    { name: "Axial", axis: 2, across: 0, down: 1, sides: "RLAP" },
    { name: "Coronal", axis: 1, across: 0, down: 2, sides: "RLSI" },
    { name: "Sagittal", axis: 0, across: 1, down: 2, sides: "APSI" },
  ];
  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const numbersOf = (text, Type) => new Type(bytesOf(text).buffer);

  async function greyOf(image, [nx, ny, nz]) {
    const picture = new Image();
    picture.src = image.url;
    await picture.decode();
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const grey = new Uint8Array(nx * ny * nz);
    for (let z = 0; z < nz; z++) {
      const tile = context.getImageData((z % image.columns) * nx, Math.floor(z / image.columns) * ny, nx, ny).data;
      for (let i = 0; i < nx * ny; i++) grey[z * nx * ny + i] = tile[4 * i];
    }
    return grey;
  }

  const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

  async function open(article) {
    const data = await Report.unpack(article.dataset.payload);
    const [nx, ny, nz] = data.shape, step = [1, nx, nx * ny];
    const Type = data.wide ? Uint16Array : Uint8Array;
    const grey = data.image && (await greyOf(data.image, [nx, ny, nz * (data.image.colours ? 3 : 1)]));
    const maps = Object.fromEntries(data.maps.map((map) => [map.name, numbersOf(map.voxels, Type)]));
    const columns = [...(grey ? ["image"] : []), ...Object.keys(maps)];
    const colours = data.labels.map((label) => rgb(label.colour));
    // The structures that a value of a map belongs to; several where they overlap.
    const held = [[], ...data.held];
    const state = { at: [...data.centre], contours: true, fill: 0, both: false, hidden: new Set(), low: 0, high: 1 };
    const box = article.querySelector("[data-role=planes]");
    box.replaceChildren();
    box.classList.toggle("has-image", Boolean(grey));

    // ---- one plane into one canvas -------------------------------------------------------------------------------
    const shade = new Uint8ClampedArray(256);
    const reshade = () => data.image?.levels.forEach((value, i) => { shade[i] = (255 * (value - state.low)) / Math.max(1e-9, state.high - state.low); });
    const width = (p) => data.shape[p.across] * data.spacing[p.across], height = (p) => data.shape[p.down] * data.spacing[p.down];
    const planes = data.plane_unit ? PLANES.slice(0, 1) : PLANES;
    const widest = Math.max(...planes.map(width));
    const indexOf = (p, column, row) => state.at[p.axis] * step[p.axis] + (data.shape[p.across] - 1 - column) * step[p.across] + (data.shape[p.down] - 1 - row) * step[p.down];
    const cell = (p, voxels, column, row) => voxels[indexOf(p, column, row)];
    // Of colours, the slices of green and blue follow those of red.
    const shades = (index) => (data.image.colours ? [0, 1, 2].map((part) => shade[grey[index + part * nx * ny * nz]]) : Array(3).fill(shade[grey[index]]));

    function draw(canvas, p, name) {
      const ratio = Math.min(2, devicePixelRatio || 1);
      const cssWidth = canvas.clientWidth || 260;
      // One scale for all planes of a case, but a plane is never taller than it is useful.
      const scale = Math.min((cssWidth * ratio) / widest, (520 * ratio) / height(p));
      const w = Math.round(cssWidth * ratio), h = Math.max(Math.round(height(p) * scale), 60 * ratio);
      if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; canvas.style.aspectRatio = `${w} / ${h}`; }
      const context = canvas.getContext("2d");
      context.fillStyle = "#000";
      context.fillRect(0, 0, w, h);
      const columnsN = data.shape[p.across], rowsN = data.shape[p.down];
      const left = (w - width(p) * scale) / 2, top = (h - height(p) * scale) / 2;
      const sx = data.spacing[p.across] * scale, sy = data.spacing[p.down] * scale;
      const small = new OffscreenCanvas(columnsN, rowsN), pen = small.getContext("2d"), pixels = pen.createImageData(columnsN, rowsN);
      const map = maps[name];
      for (let row = 0, i = 0; row < rowsN; row++) for (let column = 0; column < columnsN; column++, i += 4) {
        let colour = grey ? shades(indexOf(p, column, row)) : [24, 24, 24];
        if (map && state.fill) {
          for (const structure of held[cell(p, map, column, row)]) if (!state.hidden.has(structure)) colour = colours[structure].map((c, k) => c * state.fill + colour[k] * (1 - state.fill));
        }
        pixels.data[i] = colour[0]; pixels.data[i + 1] = colour[1]; pixels.data[i + 2] = colour[2]; pixels.data[i + 3] = 255;
      }
      pen.putImageData(pixels, 0, 0);
      context.imageSmoothingEnabled = !state.fill || !map;
      context.imageSmoothingQuality = "high";
      context.drawImage(small, left, top, columnsN * sx, rowsN * sy);
      if (map && state.contours) {
        if (state.both) for (const other of Object.keys(maps)) if (other !== name) contour(context, p, maps[other], left, top, sx, sy, ratio, true);
        contour(context, p, map, left, top, sx, sy, ratio, false);
      }
      annotate(context, p, w, h, scale, left, top, sx, sy, ratio);
    }

    // Edges of voxels where a structure ends, half a line inside, so that both of two touching structures are seen.
    function contour(context, p, map, left, top, sx, sy, ratio, dashed) {
      const columnsN = data.shape[p.across], rowsN = data.shape[p.down], paths = new Map();
      const line = (dashed ? 1.2 : 1.6) * ratio, inset = Math.min(line / 2, sx / 4, sy / 4);
      const at = (column, row) => (column < 0 || row < 0 || column >= columnsN || row >= rowsN ? 0 : cell(p, map, column, row));
      for (let row = 0; row < rowsN; row++) for (let column = 0; column < columnsN; column++) {
        const value = at(column, row), x = left + column * sx, y = top + row * sy;
        for (const structure of held[value]) {
          if (state.hidden.has(structure)) continue;
          if (!paths.has(structure)) paths.set(structure, new Path2D());
          const path = paths.get(structure);
          const same = (dx, dy) => { const other = at(column + dx, row + dy); return other === value || held[other].includes(structure); };
          // How far an end moves to meet the line around the corner: inwards at an outer corner, beyond at an inner one.
          const end = (dx, dy, ex, ey) => (!same(ex, ey) ? -inset : same(dx + ex, dy + ey) ? inset : 0);
          for (const side of [-1, 1]) {
            if (!same(side, 0)) {
              const edge = side < 0 ? x + inset : x + sx - inset;
              path.moveTo(edge, y - end(side, 0, 0, -1));
              path.lineTo(edge, y + sy + end(side, 0, 0, 1));
            }
            if (!same(0, side)) {
              const edge = side < 0 ? y + inset : y + sy - inset;
              path.moveTo(x - end(0, side, -1, 0), edge);
              path.lineTo(x + sx + end(0, side, 1, 0), edge);
            }
          }
        }
      }
      context.lineCap = dashed ? "butt" : "square";
      context.setLineDash(dashed ? [2 * ratio, 3.5 * ratio] : []);
      for (const [structure, path] of paths) {
        context.strokeStyle = dashed ? "#fff" : data.labels[structure].colour;
        context.lineWidth = line;
        context.stroke(path);
      }
      context.setLineDash([]);
    }

    function markOthers(context, p, w, h, left, top, sx, sy, ratio) {
      // Where the other planes cut: short ticks at the border, which hide nothing.
      const x = left + (data.shape[p.across] - 0.5 - state.at[p.across]) * sx, y = top + (data.shape[p.down] - 0.5 - state.at[p.down]) * sy;
      context.fillStyle = "#ffffffb0";
      for (const [a, b, c, d] of [[x, 0, 1.2, 7], [x, h - 7 * ratio, 1.2, 7], [0, y, 7, 1.2], [w - 7 * ratio, y, 7, 1.2]]) context.fillRect(a, b, c * ratio, d * ratio);
    }

    function annotate(context, p, w, h, scale, left, top, sx, sy, ratio) {
      if (!data.plane_unit) markOthers(context, p, w, h, left, top, sx, sy, ratio);
      context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      const write = (text, tx, ty) => { context.lineWidth = 3 * ratio; context.strokeStyle = "#000c"; context.strokeText(text, tx, ty); context.fillStyle = "#fff"; context.fillText(text, tx, ty); };
      const [l, r, t, b] = p.sides, pad = 11 * ratio;
      if (!data.plane_unit) { write(l, pad, h / 2); write(r, w - pad, h / 2); write(t, w / 2, pad); write(b, w / 2, h - pad); }
      const third = w / scale / 3, power = 10 ** Math.floor(Math.log10(third)), mm = [5, 2, 1].map((n) => n * power).find((n) => n <= third);
      const length = mm * scale, x0 = w - length - 8 * ratio, y0 = h - 8 * ratio;
      context.fillStyle = "#000c"; context.fillRect(x0 - ratio, y0 - 2 * ratio, length + 2 * ratio, 4 * ratio);
      context.fillStyle = "#fff"; context.fillRect(x0, y0 - ratio, length, 2 * ratio);
      context.textAlign = "right";
      write(`${mm} ${data.plane_unit || "mm"}`, w - 8 * ratio, y0 - 10 * ratio);
    }

    // ---- tools ---------------------------------------------------------------------------------------------------
    const canvases = [], sliders = [];
    let waiting = false;
    const redraw = () => {
      if (waiting) return;
      waiting = true;
      queueMicrotask(() => { waiting = false; canvases.forEach(([canvas, p, name]) => draw(canvas, p, name)); });
    };
    const place = (index) => { // RAS+ millimetres
      const a = data.affine;
      return [0, 1, 2].map((row) => a[row][0] * index[0] + a[row][1] * index[1] + a[row][2] * index[2] + a[row][3]);
    };
    const goTo = (index) => {
      state.at = index.map((v, axis) => Math.max(0, Math.min(data.shape[axis] - 1, Math.round(v))));
      const mm = place(state.at);
      sliders.forEach(([slider, output, p]) => {
        slider.value = state.at[p.axis];
        const letter = ["RL", "AP", "SI"][p.axis][mm[p.axis] >= 0 ? 0 : 1];
        const text = `${state.at[p.axis] + 1}/${data.shape[p.axis]} · ${letter} ${number(Math.abs(mm[p.axis]), 1)} mm`;
        output.textContent = text;
        slider.setAttribute("aria-valuetext", text);
      });
      redraw();
    };
    const check = (text, checked, change) => {
      const input = make("input", { type: "checkbox", checked });
      input.addEventListener("change", () => { change(input.checked); redraw(); });
      return make("label", {}, input, ` ${text}`);
    };
    const range = (text, min, max, stepSize, value, change, show) => {
      const input = make("input", { type: "range", min: String(min), max: String(max), step: String(stepSize), value: String(value) });
      const output = make("output", {}, show(value));
      input.addEventListener("input", () => { change(Number(input.value)); output.textContent = show(Number(input.value)); redraw(); });
      return [make("label", {}, `${text} `, input, " ", output), input, output];
    };

    function windowTools() {
      const levels = data.image.levels, bottom = levels[0], top = levels[levels.length - 1], digits = top - bottom < 10 ? 3 : 0;
      const show = (v) => number(v, digits), grain = (top - bottom) / 1000;
      const preset = make("select", { "aria-label": "Window" }, ...data.image.windows.map((w, i) => make("option", { value: String(i) }, w.name)));
      const set = (low, high) => { state.low = low; state.high = high; reshade(); };
      const [widthLabel, widthInput, widthOut] = range("W", grain, top - bottom, grain, 1, (w) => set((state.low + state.high - w) / 2, (state.low + state.high + w) / 2), show);
      const [levelLabel, levelInput, levelOut] = range("L", bottom, top, grain, 0, (l) => set(l - (state.high - state.low) / 2, l + (state.high - state.low) / 2), show);
      const choose = () => {
        const chosen = data.image.windows[Number(preset.value)];
        set(chosen.low, chosen.high);
        widthInput.value = chosen.high - chosen.low; widthOut.textContent = show(chosen.high - chosen.low);
        levelInput.value = (chosen.high + chosen.low) / 2; levelOut.textContent = show((chosen.high + chosen.low) / 2);
        redraw();
      };
      preset.addEventListener("change", choose);
      choose();
      return make("fieldset", {}, make("legend", {}, "Window"), preset, widthLabel, levelLabel);
    }

    const tools = make("div", { class: "tools" });
    if (grey) tools.append(windowTools());
    tools.append(make("fieldset", {}, make("legend", {}, "Labels"),
      check("contours", true, (on) => { state.contours = on; }),
      check("the other side, dotted", false, (on) => { state.both = on; }),
      range("fill", 0, 0.8, 0.05, 0, (v) => { state.fill = v; }, (v) => `${Math.round(100 * v)} %`)[0]));
    const present = new Set();
    for (const map of Object.values(maps)) for (const value of new Set(map)) held[value].forEach((structure) => present.add(structure));
    const legend = make("div", { class: "legend", role: "group", "aria-label": "Structures in the pictures" });
    data.labels.forEach((label, i) => {
      if (!present.has(i)) return;
      const entry = check("", true, (on) => { state.hidden[on ? "delete" : "add"](i); showSurfaces?.(); });
      entry.append(make("span", { class: "swatch", style: `background:${label.colour}` }), label.name);
      legend.append(entry);
    });
    box.append(tools, legend, make("div", { class: "plane-heads" }, ...columns.map((name) => make("span", {}, ["image", "reference", "prediction"].includes(name) ? name.charAt(0).toUpperCase() + name.slice(1) : name))));

    for (const p of planes) {
      const row = make("div", { class: "plane-row" });
      for (const name of columns) {
        const canvas = make("canvas", { role: "img", "aria-label": `${data.plane_unit ? "" : `${p.name} plane, `}${name}, case ${data.case}` });
        canvases.push([canvas, p, name]);
        row.append(canvas);
        if (data.plane_unit) continue; // a picture has no other planes to go to
        canvas.classList.add("steers");
        canvas.setAttribute("tabindex", "0");
        const move = (by) => goTo(state.at.map((v, axis) => (axis === p.axis ? v + by : v)));
        canvas.addEventListener("click", (event) => {
          const area = canvas.getBoundingClientRect(), ratio = canvas.width / area.width;
          const scale = Math.min(canvas.width / widest, (520 * Math.min(2, devicePixelRatio || 1)) / height(p));
          const index = [...state.at];
          index[p.across] = data.shape[p.across] - 0.5 - ((event.clientX - area.left) * ratio - (canvas.width - width(p) * scale) / 2) / (data.spacing[p.across] * scale);
          index[p.down] = data.shape[p.down] - 0.5 - ((event.clientY - area.top) * ratio - (canvas.height - height(p) * scale) / 2) / (data.spacing[p.down] * scale);
          goTo(index);
        });
        canvas.addEventListener("wheel", (event) => {
          if (document.activeElement !== canvas) return; // the page scrolls until a plane is chosen
          event.preventDefault();
          move(event.deltaY > 0 ? -1 : 1);
        }, { passive: false });
        canvas.addEventListener("keydown", (event) => {
          const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
          if (by) { event.preventDefault(); move(by); }
        });
      }
      const slider = make("input", { type: "range", min: "0", max: String(data.shape[p.axis] - 1), step: "1", "aria-label": `${p.name} slice` });
      const output = make("output", {});
      slider.addEventListener("input", () => goTo(state.at.map((v, axis) => (axis === p.axis ? Number(slider.value) : v))));
      sliders.push([slider, output, p]);
      box.append(row);
      if (!data.plane_unit) box.append(make("div", { class: "plane-slider" }, make("span", {}, p.name), slider, output));
    }
    goTo(data.centre);
    new ResizeObserver(() => requestAnimationFrame(redraw)).observe(box);
    addEventListener("beforeprint", () => canvases.forEach(([canvas, p, name]) => draw(canvas, p, name)));

    // ---- surfaces ------------------------------------------------------------------------------------------------
    const side = article.querySelector("[data-role=surface]");
    const target = make("div", { class: "surface-plot", role: "img", "aria-label": `Surfaces of reference and prediction, case ${data.case}` });
    const poster = make("img", { class: "surface-poster", alt: "" });
    // The reference and one prediction: two solid surfaces would hide each other.
    const sidesShown = Object.fromEntries(data.maps.map((map, i) => [map.name, i < 2]));
    let meshes = null;
    const decode = (s) => {
      const flat = numbersOf(s.vertices, Int16Array), corners = numbersOf(s.triangles, s.wide ? Uint32Array : Uint16Array);
      const axis = (values, start, factor) => Array.from({ length: values.length / 3 }, (_, i) => values[3 * i + start] * factor);
      return {
        type: "mesh3d", name: `${s.name}, ${s.side}`, meta: [s.name, s.side], x: axis(flat, 0, 0.1), y: axis(flat, 1, 0.1), z: axis(flat, 2, 0.1),
        i: axis(corners, 0, 1), j: axis(corners, 1, 1), k: axis(corners, 2, 1),
        color: s.side === "reference" ? "#c9ced6" : s.colour, opacity: s.side === "reference" ? 0.32 : 1, flatshading: false,
        lighting: { ambient: 0.5, diffuse: 0.75, specular: 0.12, roughness: 0.7 }, lightposition: { x: 0, y: 400, z: 300 },
        hovertemplate: `${s.name}, ${s.side}<extra></extra>`.replace(/[%]/g, "&#37;"),
      };
    };
    const visible = (mesh) => sidesShown[mesh.meta[1]] && !state.hidden.has(data.labels.findIndex((label) => label.name === mesh.meta[0]));
    let showSurfaces = () => { if (meshes && target.data) Plotly.restyle(target, { visible: meshes.map(visible) }); };
    const axis = (title) => ({ title: { text: title, font: { size: 11 } }, showbackground: false, gridcolor: "#e4e8ee", zeroline: false, tickfont: { size: 10 }, nticks: 5 });
    async function drawSurfaces() {
      if (target.data) return;
      meshes = meshes || data.surfaces.map(decode);
      meshes.forEach((mesh) => { mesh.visible = visible(mesh); });
      await Plotly.newPlot(target, meshes, {
        margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "#fff", uirevision: "keep",
        // From the front and the patient's left, as one stands before a patient: right on the viewer's left.
        scene: { aspectmode: "data", camera: { eye: { x: -0.85, y: 1.6, z: 0.65 } }, xaxis: axis("L – R (mm)"), yaxis: axis("P – A (mm)"), zaxis: axis("I – S (mm)") },
      }, { displaylogo: false, responsive: true });
      // What is printed, and what stands there on paper while the scene itself is gone.
      const drawn = target.querySelector("canvas");
      if (!poster.src && drawn) requestAnimationFrame(() => { poster.src = drawn.toDataURL("image/png"); });
    }
    if (data.surfaces.length) {
      const toggles = make("div", { class: "tools" }, make("fieldset", {}, make("legend", {}, "Surfaces"), ...Object.keys(sidesShown).map((name) => check(name === "reference" ? "reference (grey)" : name, sidesShown[name], (on) => { sidesShown[name] = on; showSurfaces(); }))));
      side.append(toggles, target, poster);
      // Browsers allow few WebGL scenes at once: only those in sight exist.
      new IntersectionObserver((entries) => {
        if (entries[0].isIntersecting) drawSurfaces().catch((error) => { target.replaceChildren(make("p", { class: "small" }, `The 3D view needs WebGL, which this browser does not offer (${error}).`)); });
        else if (target.data) Plotly.purge(target);
      }, { rootMargin: "200px" }).observe(side);
    } else if (!data.plane_unit) side.append(make("p", { class: "small" }, "Neither side has a structure: no surface."));

    // Links from elsewhere on the page to a place in millimetres.
    article.goToMm = (mm) => goTo(indexAt(data.affine, mm));
  }

  // The voxel at a place: the affine's 3×3 part inverted by cofactors.
  function indexAt(a, mm) {
    const d = [0, 1, 2].map((row) => mm[row] - a[row][3]);
    const minor = (r, c) => { const [r1, r2] = [0, 1, 2].filter((i) => i !== r), [c1, c2] = [0, 1, 2].filter((i) => i !== c); return a[r1][c1] * a[r2][c2] - a[r1][c2] * a[r2][c1]; };
    const cofactor = (r, c) => ((r + c) % 2 ? -1 : 1) * minor(r, c);
    const det = [0, 1, 2].reduce((sum, c) => sum + a[0][c] * cofactor(0, c), 0);
    return [0, 1, 2].map((c) => [0, 1, 2].reduce((sum, r) => sum + cofactor(r, c) * d[r], 0) / det);
  }

  const articles = new Map([...document.querySelectorAll(".viewer")].map((article) => [article.getAttribute("id"), article]));
  document.querySelectorAll("#lesions tr[data-key]").forEach((row) => {
    const link = row.querySelector("a[href^='#pictures-']");
    link?.addEventListener("click", () => articles.get(link.getAttribute("href").slice(1))?.goToMm?.(row.dataset.key.split(" ").slice(-3).map(Number)));
  });
  for (const article of articles.values()) await open(article).catch(Report.problem);
});
