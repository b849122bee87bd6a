"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

for (const element of document.querySelectorAll(".chart")) {
  const { data: traces, layout } = data.charts[element.dataset.chart];
  layout.template = data.template;
  Plotly.newPlot(element, traces, layout, { responsive: true, displayModeBar: false });
}

/** Shows the probabilities of an epoch in the squares of a heatmap. */
function shade(svg, { percents, kept }) {
  svg.querySelectorAll("rect[class]").forEach((square, index) => {
    const chosen = kept.includes(index);
    square.setAttribute("class", chosen ? "kept" : "square");
    square.setAttribute("fill-opacity", percents[index] / 100);
    const title = square.querySelector("title");
    const end = `${percents[index]}%${chosen ? ", kept" : ""}`;
    title.textContent = title.textContent.replace(/\d+%(, kept)?$/, end);
  });
}

/** Shows the cells and probabilities of an epoch; some epochs have no probabilities. */
function show({ epoch, cells, heats }) {
  document.querySelector(".slider output").textContent = `epoch ${epoch} of ${data.epochs}`;
  for (const card of document.querySelectorAll(".cell[data-index]")) {
    card.innerHTML = cells[card.dataset.index];
  }
  const section = document.querySelector(".heats");
  if (section) section.hidden = !heats;
  if (heats) for (const card of document.querySelectorAll(".heat")) shade(card, heats[card.dataset.index]);
}

/** Unpacks the drawings of all epochs, which the page holds as gzip in base64. */
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

const slider = document.getElementById("epoch");
if (slider) {
  const frames = unpack(data.frames);
  slider.addEventListener("input", async () => show((await frames)[slider.value]));
}
