"use strict";
/*
 * The cache as it lives: once a second /metrics and the list of sequences, as numbers, bars and blocks. What the server says
 * only ever becomes text.
 */
const KINDS = ["old", "recent", "open", "sinks"];
const KIND_TEXT = {
  old: "old (sealed, coded)", recent: "recent (sealed, finer)", open: "open (being filled, 16 bits)",
  sinks: "sinks (first tokens)", idle: "idle (kept for later prompts)", free: "free",
};
const HISTORY = 120;
const history = [];
let before = null;

function byId(id) {
  return document.getElementById(id);
}

function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/* The key goes along where there is one; never to another server. */
function request(path, options) {
  const key = byId("key").value.trim();
  const headers = { ...((options || {}).headers || {}) };
  if (key) headers.Authorization = "Bearer " + key;
  return fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
}

function bytesText(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; bytes >= 1024 && i < units.length - 1; i++) bytes /= 1024;
  return (i === 0 || bytes >= 100 ? bytes.toFixed(0) : bytes.toFixed(1)) + " " + units[i];
}

function rateText(rate) {
  return rate >= 100 ? rate.toFixed(0) : rate.toFixed(1);
}

/* --- /metrics --- */

/* Prometheus' text format as [{name, labels, value}]. */
function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const label of (parts[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[label[1]] = label[2];
    samples.push({ name: parts[1], labels, value: Number(parts[3]) });
  }
  return samples;
}

function valueOf(samples, name, labels) {
  const found = samples.find(s => s.name === name && Object.entries(labels || {}).every(([k, v]) => s.labels[k] === v));
  return found ? found.value : 0;
}

/* [{format, kinds: {old: {blocks, bytes} ...}, bits}] in the server's order. */
function formatsOf(samples) {
  const formats = new Map();
  const formatNamed = name => {
    if (!formats.has(name)) formats.set(name, { format: name, kinds: {}, bits: 0 });
    return formats.get(name);
  };
  for (const { name, labels, value } of samples) {
    if (name === "octavo_kv_format_bitwidth") formatNamed(labels.format).bits = value;
    const unit = { octavo_kv_pool_blocks: "blocks", octavo_kv_pool_bytes: "bytes" }[name];
    if (!unit || !KINDS.includes(labels.kind)) continue;
    const kinds = formatNamed(labels.format).kinds;
    kinds[labels.kind] = { ...kinds[labels.kind], [unit]: value };
  }
  return [...formats.values()];
}

function sumKind(formats, kind, unit) {
  return formats.reduce((sum, f) => sum + ((f.kinds[kind] || {})[unit] || 0), 0);
}

/* --- Drawing --- */

/* A canvas's context in CSS pixels, cleared, as wide as it is laid out. */
function drawingOf(id, height) {
  const canvas = byId(id), scale = window.devicePixelRatio || 1, width = canvas.clientWidth;
  if (!width) return null;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = height + "px";
  const drawing = canvas.getContext("2d");
  drawing.scale(scale, scale);
  return { drawing, width, height };
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function drawPool(parts, total) {
  const area = drawingOf("pool", 18);
  if (!area) return;
  let x = 0;
  for (const [kind, bytes] of parts) {
    const wide = total > 0 ? area.width * bytes / total : 0;
    area.drawing.fillStyle = color(kind);
    area.drawing.fillRect(x, 0, kind === "free" ? area.width - x : Math.max(wide, bytes > 0 ? 1 : 0), area.height);
    x += wide;
  }
}

function drawLegend(parts) {
  byId("legend").replaceChildren(...parts.map(([kind, bytes]) => {
    const item = element("li");
    item.title = KIND_TEXT[kind];
    item.append(element("i", kind), kind + " " + bytesText(bytes));
    return item;
  }));
}

/* One cell for each block, or for each so many when there are more than fit. */
function drawBlocks(counts) {
  const size = 10, gap = 2, height = 84;
  const area = drawingOf("blocks", height);
  if (!area) return;
  const columns = Math.floor((area.width + gap) / (size + gap)), rows = Math.floor((height + gap) / (size + gap));
  const total = counts.reduce((sum, [, n]) => sum + n, 0);
  let each = 1;
  const cellsFor = per => counts.reduce((sum, [, n]) => sum + Math.ceil(n / per), 0);
  while (cellsFor(each) > columns * rows) each *= 2;
  let cell = 0;
  const put = kind => {
    area.drawing.fillStyle = color(kind);
    area.drawing.fillRect(cell % columns * (size + gap), Math.floor(cell / columns) * (size + gap), size, size);
    cell++;
  };
  for (const [kind, n] of counts) for (let i = 0; i < n; i += each) put(kind);
  while (cell < columns * rows) put("free");
  setText("scale", total + " in use" + (each > 1 ? ", " + each + " to a square" : ", one to a square"));
}

function drawHistory() {
  const area = drawingOf("history", 72);
  if (!area) return;
  const { drawing, width, height } = area, most = Math.max(1, ...history.map(h => h.speed));
  drawing.fillStyle = color("faint");
  drawing.font = "11px system-ui, sans-serif";
  drawing.fillText("tokens/s, at most " + rateText(most), 2, 11);
  drawing.fillStyle = color("accent");
  const wide = width / HISTORY;
  history.forEach((h, i) => {
    const high = (height - 18) * h.speed / most;
    drawing.fillRect((HISTORY - history.length + i) * wide, height - high, Math.max(wide - 1, 1), high);
  });
  drawing.fillStyle = color("line");
  drawing.fillRect(0, height - 1, width, 1);
}

function fillTable(id, rows, none) {
  const columns = document.querySelectorAll("#" + id + " th").length;
  const body = document.querySelector("#" + id + " tbody");
  if (rows.length === 0) {
    const cell = element("td", "none", none), row = element("tr");
    cell.colSpan = columns;
    row.append(cell);
    body.replaceChildren(row);
    return;
  }
  body.replaceChildren(...rows.map(cells => {
    const row = element("tr");
    row.append(...cells.map(cell => element("td", "", String(cell))));
    return row;
  }));
}

/* --- The panel --- */

function showMetrics(samples, now) {
  const formats = formatsOf(samples);
  const generated = valueOf(samples, "octavo_generated_tokens_total");
  const prompts = valueOf(samples, "octavo_prompt_tokens_total");
  const seconds = before ? (now - before.now) / 1000 : 0;
  const speed = seconds > 0 ? Math.max(0, generated - before.generated) / seconds : 0;
  const promptSpeed = seconds > 0 ? Math.max(0, prompts - before.prompts) / seconds : 0;
  if (before) history.push({ speed });
  if (history.length > HISTORY) history.shift();
  before = { now, generated, prompts };

  const bits = valueOf(samples, "octavo_kv_bitwidth");
  const looked = valueOf(samples, "octavo_prefix_cache_query_tokens_total");
  const hit = valueOf(samples, "octavo_prefix_cache_hit_tokens_total");
  setText("bits", bits > 0 ? bits.toFixed(2) : "-");
  setText("speed", rateText(speed));
  setText("prompt-speed", rateText(promptSpeed));
  setText("running", String(valueOf(samples, "octavo_sequences_running")));
  setText("waiting", String(valueOf(samples, "octavo_sequences_waiting")));
  setText("hits", looked > 0 ? (100 * hit / looked).toFixed(0) + " %" : "-");

  const budget = valueOf(samples, "octavo_kv_pool_budget_bytes");
  const free = valueOf(samples, "octavo_kv_pool_bytes", { kind: "free" });
  const idle = Math.min(free, valueOf(samples, "octavo_prefix_cache_bytes", { state: "idle" }));
  const parts = KINDS.map(kind => [kind, sumKind(formats, kind, "bytes")]);
  setText("used", bytesText(budget - free) + " of " + bytesText(budget) + " in use");
  parts.push(["idle", idle], ["free", free - idle]);
  drawPool(parts, budget);
  drawLegend(parts);
  drawBlocks(KINDS.map(kind => [kind, sumKind(formats, kind, "blocks")]));
  drawHistory();

  const rows = [];
  for (const { format, kinds, bits: width } of formats) {
    const held = KINDS.filter(kind => kinds[kind] && kinds[kind].blocks > 0);
    held.forEach((kind, i) => rows.push([i > 0 ? "" : format, kind, kinds[kind].blocks, bytesText(kinds[kind].bytes),
      i > 0 ? "" : width.toFixed(2)]));
  }
  fillTable("formats", rows, "Nothing is cached for a running sequence.");
}

function showSequences(list) {
  fillTable("sequences", list.data.map(s => [
    s.id.slice(-8) + (s.index > 0 ? "/" + s.index : ""), s.state, s.prompt_tokens, s.generated_tokens, s.kv_tokens, s.kv_format,
    bytesText(s.kv_bytes), s.age_s.toFixed(1) + " s",
  ]), "No sequence is running.");
}

function showState(text, fault) {
  setText("state", text);
  byId("state").className = fault ? "fault" : "";
}

async function refresh() {
  try {
    const [metrics, sequences] = await Promise.all([request("metrics"), request("v1/octavo/sequences")]);
    if (metrics.status === 401) showState("needs the API key (Settings)", true);
    if (!metrics.ok) return;
    showMetrics(parseMetrics(await metrics.text()), performance.now());
    if (sequences.ok) showSequences(await sequences.json());
    if (sequences.status === 503) showState("the model is being loaded");
    else showState("ready");
    if (sequences.ok && !byId("model").textContent) await readProps();
  } catch (fault) {
    showState("no answer from the server", true);
    before = null;
  }
}

/* The model's name, and the formats that a request may ask for. */
async function readProps() {
  const reply = await request("props");
  if (!reply.ok) return;
  const props = await reply.json();
  setText("model", props.model_alias);
  document.title = props.model_alias + " - octavo";
  for (const { name, bits_per_value } of props.kv_formats) {
    const option = element("option", "", name + " (" + bits_per_value.toFixed(2) + " bits)");
    option.value = name;
    byId("format").append(option);
  }
}

async function watch() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise(resolve => setTimeout(resolve, 1000));
  }
}

for (const view of ["chat", "cache"])
  byId("show-" + view).addEventListener("click", () => {
    document.querySelector("main").dataset.view = view;
    for (const other of ["chat", "cache"]) byId("show-" + other).setAttribute("aria-pressed", String(other === view));
    refresh();
  });
watch();
