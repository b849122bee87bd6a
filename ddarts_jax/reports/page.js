"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const INK = "#1f2937", FAINT = "#c3c8d0";

// ---------------------------------------------------------------- charts

const AXIS = { fixedrange: true, gridcolor: "#e8eaee", zerolinecolor: "#c9ced6" };

/** An axis of epochs: whole numbers, also where there are few. */
function epochAxis(traces) {
  const epochs = traces.flatMap((trace) => trace.x);
  const [first, last] = [Math.min(...epochs), Math.max(...epochs)];
  const few = last - first < 8 ? { dtick: 1 } : {};
  return { title: { text: "epoch", standoff: 4 }, zeroline: false, range: [first - 0.5, last + 0.5], ...few };
}

/** A logarithmic axis: 1, 2 and 5 of every power of ten, or the powers alone where they are many. */
function logTicks(traces) {
  const logs = traces.flatMap((trace) => trace.y).filter((value) => value > 0).map(Math.log10);
  const [low, high] = [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs))];
  const powers = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
  const steps = high - low > 2 ? [1] : [1, 2, 5];
  return { tickvals: powers.flatMap((power) => steps.map((step) => step * power)) };
}

function layoutOf({ traces, layout }, width) {
  // The legend stands below, in rows of equal entries, for which there must be room.
  const listed = traces.filter((trace) => trace.showlegend !== false);
  const longest = Math.max(0, ...listed.map((trace) => (trace.name || "").length));
  const entry = Math.min(7 * longest + 4, width - 120);
  const columns = Math.max(1, Math.floor((width - 62) / (entry + 45)));
  const rows = layout.showlegend === false ? 0 : Math.ceil(listed.length / columns);
  return {
    width,
    height: 270 + 20 * rows,
    margin: { l: 52, r: 10, t: 10, b: 44 + 20 * rows },
    font: { family: "system-ui, sans-serif", size: 12, color: INK },
    hovermode: "x unified",
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", entrywidth: entry, tracegroupgap: 0 },
    ...layout,
    xaxis: { ...AXIS, ...(layout.xaxis || epochAxis(traces)) },
    yaxis: { ...AXIS, ...(layout.yaxis?.type === "log" ? logTicks(traces) : {}), ...layout.yaxis },
  };
}

function drawCharts() {
  for (const element of document.querySelectorAll(".chart")) {
    const chart = data.charts[element.dataset.chart];
    Plotly.react(element, chart.traces, layoutOf(chart, element.clientWidth), { displayModeBar: false });
  }
}

drawCharts();
addEventListener("resize", drawCharts);

// ---------------------------------------------------------------- cells

function add(parent, name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function towards(x, y, toX, toY, length) {
  const share = length / Math.hypot(toX - x, toY - y);
  return [x + share * (toX - x), y + share * (toY - y)];
}

function nodeName(node) {
  return { 0: "k-2", 1: "k-1" }[node] ?? String(node);
}

/** Draws one arrow, as wide as its probability, from the rim of its source to that of its node. */
function drawArrow(svg, nodes, [primitive, source, node, cx, cy, probability]) {
  const radius = data.size[2];
  const style = primitive ? data.styles[primitive] : { colour: FAINT, dash: "solid" };
  const width = !primitive ? 1.2 : probability === null ? 2.2 : Math.max(0.8, 5 * probability);
  const head = 5 + 1.2 * width;
  const [x0, y0, exists] = nodes[source];
  const [x1, y1] = nodes[node];
  const start = towards(x0, y0, cx, cy, radius);
  const tip = towards(x1, y1, cx, cy, radius + 1);
  const end = towards(...tip, cx, cy, head);
  const group = add(svg, "g", { opacity: exists ? 1 : 0.25 });
  add(group, "path", {
    d: `M${start} Q${cx},${cy} ${end}`,
    fill: "none",
    stroke: style.colour,
    "stroke-width": width,
    "stroke-dasharray": style.dash === "solid" ? "none" : style.dash,
  });
  const side = (2 + 0.9 * width) / head;
  const [dx, dy] = [(tip[0] - end[0]) * side, (tip[1] - end[1]) * side];
  const corners = [tip, [end[0] - dy, end[1] + dx], [end[0] + dy, end[1] - dx]];
  add(group, "polygon", { points: corners.join(" "), fill: style.colour });
  if (primitive) {
    const certainty = probability === null ? "" : ` (${(100 * probability).toFixed(1)}%)`;
    add(group, "title", {}, `${primitive}: ${nodeName(source)} → ${nodeName(node)}${certainty}`);
  }
}

function drawCell(svg, { arrows, nodes }) {
  const [width, height, radius] = data.size;
  svg.setAttribute("viewBox", `0 18 ${width} ${height - 18}`);
  svg.replaceChildren();
  for (const arrow of arrows) drawArrow(svg, nodes, arrow);
  for (const [node, [x, y, exists]] of Object.entries(nodes)) {
    const outer = ["0", "1", "out"].includes(node);
    const fill = outer && exists ? INK : "#fff";
    add(svg, "circle", { cx: x, cy: y, r: radius, fill, stroke: exists ? INK : FAINT });
    const colour = !exists ? FAINT : outer ? "#fff" : INK;
    const font = { "font-size": outer ? 11 : 13, "text-anchor": "middle" };
    add(svg, "text", { x, y: y + 4, fill: colour, ...font }, nodeName(node));
  }
}

for (const svg of document.querySelectorAll("svg[data-cell]")) drawCell(svg, data.cells[svg.dataset.cell]);

for (const legend of document.querySelectorAll(".legend")) {
  for (const [name, { colour, dash }] of Object.entries(data.styles)) {
    const entry = document.createElement("span");
    const svg = add(entry, "svg", { width: 34, height: 8 });
    const dashes = dash === "solid" ? "none" : dash;
    add(svg, "line", { x2: 34, y1: 4, y2: 4, stroke: colour, "stroke-width": 3, "stroke-dasharray": dashes });
    entry.append(name);
    legend.append(entry);
  }
}

// ---------------------------------------------------------------- slider over epochs

function colourOf(percent) {
  const mix = (from, to) => Math.round(from + ((to - from) * percent) / 100);
  return `rgb(${mix(255, 8)},${mix(255, 69)},${mix(255, 148)})`;
}

/** Draws a heatmap, edges downwards and primitives to the right; kept primitives have a border. */
function drawHeat(svg, percents, arrows) {
  const { edges, primitives } = data.settling;
  const kept = new Set(arrows.map(([primitive, source, node]) => `${primitive} ${source} ${node}`));
  const [left, top, size] = [58, 112, 17];
  const pitch = (360 - left) / primitives.length;
  svg.setAttribute("viewBox", `0 0 360 ${top + size * edges.length + 4}`);
  svg.replaceChildren();
  primitives.forEach((name, o) => {
    const [x, y] = [left + (o + 0.5) * pitch + 4, top - 6];
    add(svg, "text", { transform: `translate(${x} ${y}) rotate(-90)`, "font-size": 12, fill: INK }, name);
  });
  edges.forEach(([source, node], e) => {
    const edge = `${nodeName(source)} → ${node}`;
    const y = top + e * size;
    add(svg, "text", { x: left - 6, y: y + 12, "font-size": 12, "text-anchor": "end", fill: INK }, edge);
    primitives.forEach((name, o) => {
      const percent = percents[e][o];
      const chosen = kept.has(`${name} ${source} ${node}`);
      const square = add(svg, "rect", {
        x: left + o * pitch + 1.5,
        y: y + 1.5,
        width: pitch - 3,
        height: size - 3,
        fill: colourOf(percent),
        stroke: chosen ? "#d9381e" : "#d5dae1",
        "stroke-width": chosen ? 2.5 : 0.8,
      });
      add(square, "title", {}, `${name}, ${edge}: ${percent}%${chosen ? ", kept" : ""}`);
    });
  });
}

function showEpoch(frame) {
  const { epochs, frames, percents } = data.settling;
  const label = document.querySelector(".slider output");
  label.textContent = `epoch ${epochs[frame]} of ${epochs.at(-1)}`;
  for (const svg of document.querySelectorAll("svg.cell[data-index]")) {
    drawCell(svg, frames[frame][svg.dataset.index]);
  }
  const heats = document.querySelector(".heats");
  if (!heats) return;
  heats.hidden = percents[frame] === null;
  if (heats.hidden) return;
  for (const svg of heats.querySelectorAll("svg")) {
    const index = svg.dataset.index;
    drawHeat(svg, percents[frame][index], frames[frame][index].arrows);
  }
}

const slider = document.getElementById("epoch");
if (slider) {
  slider.addEventListener("input", () => showEpoch(Number(slider.value)));
  showEpoch(Number(slider.value));
}
