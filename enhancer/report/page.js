"use strict";
const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const METRIC_NAMES = Object.keys(DATA.metrics);
const CODECS = new Set(DATA.runs.map((run) => run.codec)).size;

function option(select, value, text) {
  const item = document.createElement("option");
  item.value = value;
  item.textContent = text;
  select.append(item);
}

function cell(row, text, kind = "td", className = "") {
  const item = document.createElement(kind);
  item.textContent = text;
  if (className) item.className = className;
  row.append(item);
  return item;
}

const signed = (value, digits) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);

/* ---- light and dark ---- */

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  drawChart();
}

byId("theme").addEventListener("click", () =>
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
systemDark.addEventListener("change", () => setTheme(systemDark.matches ? "dark" : "light"));

/* ---- curves ---- */

const COLORS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#8c564b", "#bcbd22", "#7f7f7f"];
/* A colour for each codec; a line and a symbol for each network, the first of no network. */
const [DASHES, SYMBOLS] = [["solid", "dash", "dashdot", "longdash"], ["circle", "square", "diamond", "triangle-up", "cross"]];
const BUTTONS = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];

function traces(metric) {
  const measured = DATA.runs.filter((run) => run.curves[metric]).map((run) => {
    const points = run.curves[metric].filter((point) => typeof point[1] === "number");
    return {
      name: run.label, x: points.map((p) => p[0]), y: points.map((p) => p[1]), text: points.map((p) => `qp ${p[2]}`),
      mode: "lines+markers", hovertemplate: "%{text}<br>%{x:.4f} bpp<br>%{y:.4f}",
      line: { color: COLORS[run.codec % COLORS.length], dash: DASHES[run.network % DASHES.length] },
      marker: { symbol: SYMBOLS[run.network % SYMBOLS.length], size: 7 },
    };
  });
  if (!byId("published").checked) return measured;
  const published = DATA.overlays.filter((o) => o.values[metric]).map((o, index) => ({
    name: `${o.label} (published)`, x: o.bpp, y: o.values[metric], mode: "lines+markers", opacity: 0.7,
    line: { dash: "dot", width: 1.5, color: COLORS[(CODECS + index) % COLORS.length] }, marker: { symbol: "circle-open", size: 6 },
    hovertemplate: `${o.set}<br>%{x:.4f} bpp<br>%{y:.4f}`,
  }));
  return measured.concat(published);
}

function drawChart() {
  const metric = byId("metric").value;
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  const narrow = window.innerWidth < 640;
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
    margin: { l: 60, r: 10, t: 10, b: 50 }, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink },
    xaxis: { ...axis, title: { text: "bits per pixel" }, type: byId("log").checked ? "log" : "linear" },
    yaxis: { ...axis, title: { text: DATA.metrics[metric] } },
    legend: narrow ? { orientation: "h", y: -0.25 } : { x: 0.99, xanchor: "right", y: 0.02, yanchor: "bottom", bgcolor: "rgba(127,127,127,0.08)" },
  };
  Plotly.react("chart", traces(metric), layout, { displaylogo: false, responsive: true, displayModeBar: !narrow, modeBarButtons: BUTTONS });
  const without = [...new Set(DATA.runs.flatMap((run) => run.left_out[metric] || []))];
  const unrated = DATA.runs.filter((run) => Object.keys(run.curves).length === 0).map((run) => run.label);
  byId("chart-note").textContent = (without.length ? `Not in this mean, too small for the metric: ${without.join(", ")}. ` : "")
    + (unrated.length ? `Not drawn, their rates are not known: ${unrated.join(", ")}.` : "");
}

function initChart() {
  METRIC_NAMES.forEach((name) => option(byId("metric"), name, DATA.metrics[name]));
  byId("published-label").hidden = DATA.overlays.length === 0;
  ["metric", "log", "published"].forEach((id) => byId(id).addEventListener("change", drawChart));
}

/* ---- deltas ---- */

const interval = (pair, digits) => (pair ? ` [${signed(pair[0], digits)}, ${signed(pair[1], digits)}]` : "");

function drawDeltas() {
  const table = byId("bd");
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  ["run", "BD-rate (%)", "Akima", "cubic", "BD-quality", "common quality", "covered"].forEach((name) => cell(head, name, "th"));
  const body = table.createTBody();
  DATA.bd.filter((d) => d.anchor === byId("anchor").value && d.metric === byId("bd-metric").value).forEach((d) => {
    const row = body.insertRow();
    cell(row, d.test);
    if (d.refused) {
      cell(row, `refused: ${d.refused}`, "td", "text").colSpan = 6;
      return;
    }
    cell(row, signed(d.pchip, 2) + interval(d.rate_interval, 2));
    cell(row, signed(d.akima, 2));
    cell(row, signed(d.cubic, 2));
    cell(row, signed(d.quality, 3) + interval(d.quality_interval, 3));
    cell(row, `${d.overlap[0].toFixed(3)} … ${d.overlap[1].toFixed(3)}`);
    cell(row, `${Math.round(100 * d.covered)} %`);
  });
}

function initDeltas() {
  [...new Set(DATA.bd.map((d) => d.anchor))].forEach((label) => option(byId("anchor"), label, label));
  [...new Set(DATA.bd.map((d) => d.metric))].forEach((name) => option(byId("bd-metric"), name, DATA.metrics[name]));
  ["anchor", "bd-metric"].forEach((id) => byId(id).addEventListener("change", drawDeltas));
  drawDeltas();
}

/* ---- table of pictures ---- */

const sorting = { column: 0, down: false };

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? 1 : -1; // what is missing goes last
  const [x, y] = [a, b].map((v) => (v === "inf" ? Infinity : v));
  const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
  return sorting.down ? -order : order;
}

function shown(value, column) {
  if (value === null) return "–";
  if (value === "inf") return "∞";
  if (typeof value !== "number" || column < 4) return String(value);
  return value.toFixed(4);
}

function drawTable() {
  const [run, qp] = [byId("t-run").value, byId("t-qp").value];
  const rows = DATA.table.rows
    .filter((row) => (!run || row[1] === run) && (!qp || String(row[2]) === qp))
    .sort((a, b) => compare(a[sorting.column], b[sorting.column]));
  const table = byId("table");
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  DATA.table.head.forEach((name, column) => {
    const title = cell(head, "", "th", column === 1 ? "text" : "");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name + (column === sorting.column ? (sorting.down ? " ↓" : " ↑") : "");
    button.addEventListener("click", () => {
      sorting.down = column === sorting.column && !sorting.down;
      sorting.column = column;
      drawTable();
    });
    title.append(button);
    if (column === sorting.column) title.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
  });
  const body = table.createTBody();
  rows.forEach((values) => {
    const row = body.insertRow();
    values.forEach((value, column) => cell(row, shown(value, column), "td", column === 1 ? "text" : ""));
  });
}

function initTable() {
  option(byId("t-run"), "", "all");
  option(byId("t-qp"), "", "all");
  DATA.runs.forEach((run) => option(byId("t-run"), run.label, run.label));
  [...new Set(DATA.table.rows.map((row) => row[2]))].sort((a, b) => a - b).forEach((qp) => option(byId("t-qp"), qp, qp));
  ["t-run", "t-qp"].forEach((id) => byId(id).addEventListener("change", drawTable));
  drawTable();
}

/* ---- texts ---- */

function initTexts() {
  byId("title").textContent = DATA.title;
  const pictures = new Set(DATA.table.rows.map((row) => row[0])).size;
  byId("summary").textContent = `${pictures} pictures, ${DATA.runs.length} runs. PSNR and the other means are means over pictures.`;
  byId("overlays").hidden = DATA.overlays.length === 0;
  DATA.overlays.forEach((o) => {
    const item = document.createElement("li");
    item.textContent = `${o.label}: ${o.source} (test set: ${o.set})`;
    byId("overlay-list").append(item);
  });
  DATA.environment.forEach((entry) => {
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = entry.label;
    const text = document.createElement("pre");
    text.textContent = JSON.stringify({ source: entry.source, enhancement: entry.enhancement, ...entry.environment }, null, 1);
    details.append(summary, text);
    byId("environment").append(details);
  });
}

initTexts();
initChart();
initDeltas();
initTable();
setTheme(systemDark.matches ? "dark" : "light");
