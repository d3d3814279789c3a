// Asks /status.json every two seconds and shows it. Text goes in as text: names come from outside.
"use strict";

const EVERY_MS = 2000;
const TIMEOUT_MS = 8000;
const at = (id) => document.getElementById(id);
let key = "";  // lives as long as this tab shows the page; nothing keeps it
let points = [];

function element(name, content = "", kind = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...[content].flat());
  return made;
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text) made.textContent = text;
  return made;
}

const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const milliseconds = (value) =>
  value === null ? "–" : value < 1000 ? `${number(value)}\u00a0ms` : `${number(value / 1000, 1)}\u00a0s`;
const bytes = (value) => (value < 1e9 ? `${number(value / 1e6, 1)} MB` : `${number(value / 1e9, 1)} GB`);
const state = (value) => element("span", value, value === "no answer" ? "away" : value.split(" ").pop());
const figure = (content) => ({ content, kind: "number" });

function table(id, names, rows) {
  const cell = (tag) => (value) =>
    value && value.kind ? element(tag, value.content, value.kind) : element(tag, value);
  const line = (tag, cells) => element("tr", cells.map(cell(tag)));
  at(id).replaceChildren(
    element("thead", line("th", names)), element("tbody", rows.map((cells) => line("td", cells))));
}

function bar({ live_bytes: live, cached_bytes: cached, budget_bytes: budget }) {
  if (!budget) return ["–"];
  const share = (live + cached) / budget;
  const picture = drawn("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none" });
  picture.append(
    drawn("title", {}, `${bytes(live)} live, ${bytes(cached)} cached, of ${bytes(budget)}`),
    drawn("rect", { class: "free", width: 100, height: 10 }),
    drawn("rect", { class: "cached", width: Math.min(100, 100 * share), height: 10 }),
    drawn("rect", { class: "live", width: Math.min(100, (100 * live) / budget), height: 10 }));
  return [picture, `${number(100 * share)} %`];
}

function chart() {
  const svg = at("chart");
  const [width, height, left, bottom] = [svg.clientWidth || 960, 200, 48, 24];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  if (points.length < 2) {
    svg.replaceChildren(drawn("text", { x: left, y: height / 2 }, "The first minutes are being gathered."));
    return;
  }
  const span = Math.max(300, points[0].age_s);
  const peak = Math.max(...points.map((point) => point.tokens_per_s), 1);
  const step = 10 ** Math.floor(Math.log10(peak));
  const top = Math.ceil(peak / step) * step;
  const x = (age) => left + (width - left - 12) * (1 - age / span);
  const y = (rate) => 12 + (height - bottom - 12) * (1 - rate / top);
  const parts = [];
  for (const rate of [0, top / 2, top]) {
    parts.push(drawn("line", { class: "grid", x1: left, x2: width - 12, y1: y(rate), y2: y(rate) }));
    parts.push(drawn("text", { x: left - 8, y: y(rate) + 4, "text-anchor": "end" }, number(rate, top < 10 ? 1 : 0)));
  }
  for (let minute = 0; minute <= span / 60; minute += span > 360 || width < 600 ? 2 : 1) {
    const anchor = minute === 0 ? "end" : "middle";
    const text = minute === 0 ? "now" : `${minute} min ago`;
    parts.push(drawn("text", { x: x(60 * minute), y: height - 6, "text-anchor": anchor }, text));
  }
  const path = points.map((point) => `${x(point.age_s).toFixed(1)} ${y(point.tokens_per_s).toFixed(1)}`).join("L");
  const [first, last] = [x(points[0].age_s), x(points.at(-1).age_s)];
  parts.push(drawn("path", { class: "area", d: `M${first} ${y(0)}L${path}L${last} ${y(0)}Z` }));
  parts.push(drawn("path", { class: "line", d: `M${path}` }));
  svg.replaceChildren(...parts);
}

function show(status) {
  const totals = status.totals;
  at("version").textContent = status.version;
  at("state").textContent = { ok: "Everything answers", degraded: "Degraded", down: "Down" }[status.state];
  at("state").className = status.state;
  at("when").textContent = new Date(1000 * status.time).toLocaleTimeString();
  document.title = status.state === "ok" ? "Russet" : `Russet: ${status.state}`;
  at("degraded").replaceChildren(
    ...status.degraded.map((each) => element("li", [element("b", each.what), each.means])));
  const cards = [
    ["Tokens a second", number(totals.tokens_per_s, 1)],
    ["Requests a second", number(totals.requests_per_s, 2)],
    ["Running", number(totals.running)],
    ["Waiting", number(totals.waiting)],
    ["First token", [milliseconds(totals.ttft_ms.p50), element("small", ` p95 ${milliseconds(totals.ttft_ms.p95)}`)]],
    ["Failed, last minute", element("span", number(totals.failed_last_minute), totals.failed_last_minute ? "failed" : "")],
    ["Refused, last minute", number(totals.refused_last_minute)],
    ["Streams moved", number(totals.failovers)],
  ];
  at("totals").replaceChildren(
    ...cards.map(([name, value]) => element("div", [element("dt", name), element("dd", value)])));
  table("replicas",
    ["Replica", "Node", "State", figure("Running"), figure("Waiting"), "KV memory", figure("Tokens/s"),
      figure("First token"), figure("p95"), figure("Cached"), figure("Lost")],
    status.replicas.map((row) => [
      row.id, row.node, state(row.state),
      figure(row.running_limit ? `${row.running} / ${row.running_limit}` : `${row.running}`), figure(`${row.waiting}`),
      bar(row.kv), figure(number(row.tokens_per_s, 1)), figure(milliseconds(row.ttft_ms.p50)),
      figure(milliseconds(row.ttft_ms.p95)),
      figure(row.prefix_hit_ratio === null ? "–" : `${number(100 * row.prefix_hit_ratio)} %`),
      figure(`${row.worker_losses}`)]));
  table("models", ["Model", figure("Ready"), figure("Running"), figure("Waiting"), figure("Tokens/s")],
    status.models.map((row) => [
      row.id, figure(`${row.ready} / ${row.replicas}`), figure(`${row.running}`), figure(`${row.waiting}`),
      figure(number(row.tokens_per_s, 1))]));
  table("nodes", ["Node", figure("Replicas"), figure("Tokens/s"), figure("Free memory"), "Away"],
    status.nodes.map((row) => [
      row.node, figure(`${row.replicas}`), figure(number(row.tokens_per_s, 1)),
      figure(row.memory_bytes ? `${bytes(row.available_bytes)} of ${bytes(row.memory_bytes)}` : "–"),
      element("span", row.away.join(", "), "away")]));
  table("services", ["Role", "Replica", "Node", figure("Process"), "Since", "State"],
    status.services.map((row) => [
      row.role, row.replica, row.node, figure(`${row.pid ?? ""}`),
      row.started ? new Date(1000 * row.started).toLocaleString() : "", state(row.state)]));
}

function ask(refusal = "") {
  at("asking").hidden = false;
  at("view").hidden = true;
  at("refusal").textContent = refusal;
  at("state").textContent = "This gateway wants a key";
  at("state").className = "";
  at("key").focus();
}

async function refresh() {
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch("/status.json", { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (response.status === 401 || response.status === 403) {
      ask(key ? (await response.json()).error.message : "");
      return;
    }
    if (!response.ok) throw new Error(`answers ${response.status}`);
    const status = await response.json();
    at("asking").hidden = true;
    at("view").hidden = false;
    show(status);
    points = status.history;
    chart();  // as wide as it is seen
    at("view").classList.remove("stale");
  } catch (error) {
    at("state").textContent = "The gateway does not answer";
    at("state").className = "down";
    at("view").classList.add("stale");
  }
  setTimeout(refresh, EVERY_MS);
}

at("asking").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  at("key").value = "";
  refresh();
});
addEventListener("resize", chart);
refresh();
