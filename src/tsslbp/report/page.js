"use strict";
const narrow = matchMedia("(max-width: 40rem)").matches;
const contents = document.querySelector("nav details");
if (narrow) contents.open = false;

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("main details:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
});

let library;
function loadLibrary() {
  library ??= (async () => {
    const text = document.getElementById("plotly").textContent;
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    return window.Plotly;
  })();
  return library;
}

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}

async function show(figure, interactive) {
  const graph = figure.querySelector(".graph");
  const drawing = figure.querySelector(".drawing");
  if (interactive && !graph.hasChildNodes()) {
    const plotly = await loadLibrary();
    const table = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    graph.hidden = false;
    drawing.hidden = true;
    const options = { displaylogo: false, responsive: true };
    await plotly.newPlot(graph, table.data, table.layout, options);
  }
  graph.hidden = !interactive;
  drawing.hidden = interactive;
  const [left, right] = figure.querySelectorAll(".switch button");
  left.setAttribute("aria-pressed", String(!interactive));
  right.setAttribute("aria-pressed", String(interactive));
}

function button(text, action) {
  const one = document.createElement("button");
  one.type = "button";
  one.textContent = text;
  one.addEventListener("click", action);
  return one;
}

function addSwitch(figure) {
  const bar = document.createElement("div");
  bar.className = "switch";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Kind of figure");
  bar.append(
    button("Drawing", () => show(figure, false)),
    button("Interactive", () => show(figure, true)),
  );
  figure.querySelector(".drawing").before(bar);
  const works = !("webgl" in figure.dataset) || hasWebGL();
  if (!works) {
    bar.lastChild.disabled = true;
    bar.lastChild.title = "Needs WebGL, which this browser does not offer";
  }
  return show(figure, works && !narrow);
}

async function start() {
  if (!document.getElementById("plotly") || !("DecompressionStream" in window)) return;
  for (const figure of document.querySelectorAll("figure[data-interactive]")) {
    await addSwitch(figure);
  }
}
start().finally(() => {
  document.documentElement.dataset.ready = "";
});
