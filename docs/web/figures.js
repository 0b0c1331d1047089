// What readers can move on the site: the filter of the catalogue, and the figures of the page on theory.
// A page asks for one with a comment, `<!-- interactive: NAME -->`; without scripts the page is whole without it.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function element(space, name, attributes, ...children) {
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const html = (name, attributes, ...children) => element(null, name, attributes, ...children);
const svg = (name, attributes, ...children) => element(SVG, name, attributes, ...children);
const short = (number) => (number && Math.abs(number) < 1e-3 ? number.toExponential().replace(/(\.\d\d)\d+/, "$1")
  : Number(number.toPrecision(3)).toString());

// A labelled slider. `read` makes its value of its position; `change` is called after each move.
function slider(label, { min, max, step, value, read = (position) => position }, change) {
  const input = html("input", { type: "range", min, max, step, value });
  const output = html("output", {});
  const control = { input, get value() { return read(Number(input.value)); } };
  const show = () => { output.textContent = short(control.value); };
  input.addEventListener("input", () => { show(); change(); });
  show();
  control.row = html("label", {}, html("span", {}, label), input, output);
  return control;
}

// Axes with a line, dots and a dashed level in them; the y axis is logarithmic where `log` is true.
function chart({ title, x, y, log = false, labels }) {
  const width = 360, height = 240, left = 46, right = 14, top = 24, bottom = 38;
  const scale = (value) => (log ? Math.log10(Math.max(value, 1e-300)) : value);
  const [low, high] = [scale(y[0]), scale(y[1])];
  const px = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (width - left - right);
  const py = (value) => {
    const share = (scale(value) - low) / (high - low);
    return height - bottom - Math.min(1.2, Math.max(-0.2, share)) * (height - top - bottom);
  };
  const marks = svg("g", {});
  const clip = `plot-${chart.count = (chart.count || 0) + 1}`;
  const area = { x: left, y: top, width: width - left - right, height: height - top - bottom };
  const drawn = svg("g", { "clip-path": `url(#${clip})` });
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    svg("clipPath", { id: clip }, svg("rect", area)), svg("rect", { ...area, class: "frame" }), marks, drawn,
    svg("text", { x: left, y: 14, class: "title" }, title),
    svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, labels[0]));
  const text = (x, y, anchor, value) => marks.append(svg("text", { x, y, "text-anchor": anchor }, value));
  for (const value of [x[0], (x[0] + x[1]) / 2, x[1]]) text(px(value), height - bottom + 14, "middle", short(value));
  const steps = log ? [...Array(Math.round(high - low) + 1).keys()].map((one) => 10 ** (low + one))
    : [y[0], (y[0] + y[1]) / 2, y[1]];
  for (const value of steps) text(left - 5, py(value) + 4, "end", short(value));
  return {
    image,
    clear: () => drawn.replaceChildren(),
    line: (points, kind) => drawn.append(svg("polyline",
      { class: kind, points: points.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(" ") })),
    dots: (points) => points.forEach(([a, b]) => drawn.append(svg("circle", { cx: px(a), cy: py(b), r: 2.5 }))),
  };
}

// Gradient descent with heavy-ball momentum on loss = L w² / 2, from w = 1.
function quadratic(place) {
  const steps = 40;
  const bowl = chart({ title: "the way of the weight", x: [-1.5, 1.5], y: [0, 1.2], labels: ["weight"] });
  const fall = chart({ title: "distance from the minimum", x: [0, steps], y: [1e-6, 1e2], log: true, labels: ["step"] });
  const told = html("p", { "aria-live": "polite" });
  const rate = slider("LR × L", { min: 0.02, max: 4, step: 0.02, value: 1.8 }, draw);
  const momentum = slider("momentum", { min: 0, max: 0.95, step: 0.05, value: 0 }, draw);
  place.append(rate.row, momentum.row, html("div", { class: "charts" }, bowl.image, fall.image), told);

  // The larger root of z² - (1 + β - x) z + β: by this factor the distance changes per step in the long run.
  function factor(x, beta) {
    const half = (1 + beta - x) / 2, under = half * half - beta;
    return under < 0 ? Math.sqrt(beta) : Math.max(Math.abs(half + Math.sqrt(under)), Math.abs(half - Math.sqrt(under)));
  }

  function verdict(x, beta, per) {
    const bound = 2 + 2 * beta;
    if (x > bound + 1e-9) return "Above the bound: it diverges.";
    if (x > bound - 1e-9) return "At the bound: it bounces for ever.";
    if (per < 1e-9) return "It lands on the minimum in one step.";
    const count = Math.ceil(Math.log(10) / -Math.log(per));
    const manner = beta ? "It converges" : x < 1 ? "It approaches from one side" : "It overshoots, and converges in zigzag";
    return `${x < 0.2 && !beta ? "It crawls" : manner}: ${count} step${count > 1 ? "s" : ""} to come ten times closer.`;
  }

  function draw() {
    const x = rate.value, beta = momentum.value, path = [1];
    let weight = 1, velocity = 0;
    for (let step = 0; step < steps; step++) {
      velocity = beta * velocity + weight;
      weight -= x * velocity;
      path.push(weight);
    }
    const curve = [...Array(121).keys()].map((one) => -1.5 + one / 40).map((one) => [one, one * one / 2]);
    const points = path.map((one) => [one, one * one / 2]);
    bowl.clear();
    bowl.line(curve, "level");
    bowl.line(points, "path");
    bowl.dots(points.filter(([one]) => Math.abs(one) < 1.5));
    fall.clear();
    fall.line(path.map((one, step) => [step, Math.abs(one)]), "path");
    const per = factor(x, beta);
    told.textContent = `The bound is LR × L = 2 + 2 × momentum = ${short(2 + 2 * beta)}; the factor per step is `
      + `${short(per)}. ${verdict(x, beta, per)}`;
  }
  draw();
}

// Gradient descent on w² / 2 whose gradients have normal noise: what is left of the loss, and one run.
function noise(place) {
  const steps = 400, drawn = [];
  let state = 7;
  const uniform = () => { state = (state * 48271) % 2147483647; return state / 2147483647; };
  for (let step = 0; step < steps; step++) {
    drawn.push(Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
  }
  const plot = chart({ title: "loss: one run, and the mean of all", x: [0, steps], y: [1e-4, 1e2], log: true, labels: ["step"] });
  const told = html("p", { "aria-live": "polite" });
  const rate = slider("LR", { min: -2.5, max: 0.25, step: 0.05, value: -0.5, read: (position) => 10 ** position }, draw);
  const cooldown = slider("cooldown, % of the run", { min: 0, max: 100, step: 5, value: 0 }, draw);
  place.append(rate.row, cooldown.row, html("div", { class: "charts" }, plot.image), told);

  function draw() {
    const peak = rate.value, start = steps * (1 - cooldown.value / 100);
    const one = [[0, 50]], mean = [[0, 50]];
    let weight = 10, square = 100;
    for (let step = 0; step < steps; step++) {
      const lr = step < start ? peak : peak * (steps - step) / (steps - start);
      weight -= lr * (weight + drawn[step]);
      square = (1 - lr) ** 2 * square + lr ** 2;
      one.push([step + 1, weight ** 2 / 2]);
      mean.push([step + 1, square / 2]);
    }
    const floor = peak / (2 - peak) / 2;
    plot.clear();
    plot.line(one, "faint");
    plot.line([[0, floor], [steps, floor]], "level");
    plot.line(mean, "path");
    told.textContent = `At a constant LR the noise holds the loss at LR / (2 (2 - LR)) = ${short(floor)}, the dashed line; `
      + `this run ends at a mean of ${short(square / 2)}.`;
  }
  draw();
}

// Shows the options of the catalogue whose text has every word that is typed.
function filter(place) {
  const input = html("input", { type: "search", id: "filter", placeholder: "cosine, momentum, Loshchilov ..." });
  const told = html("p", { "aria-live": "polite" });
  place.append(html("label", { for: "filter" }, "Filter the options"), input, told);
  let read;
  input.addEventListener("input", () => {
    read ??= options(place); // now, since the theme has wrapped the tables by now
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of read.general) one.hidden = words.length > 0;
    let left = 0, count = 0;
    for (const chapter of read.chapters) {
      const found = chapter.entries.filter((entry) => words.every((word) => entry.text.includes(word)));
      for (const entry of chapter.entries) for (const one of entry.nodes) one.hidden = !found.includes(entry);
      chapter.heading.hidden = words.length > 0 && !found.length;
      left += found.length;
      count += chapter.entries.length;
    }
    told.textContent = words.length ? `${left} of ${count} options` : "";
  });
}

// The chapters around a place, each with its options; and what belongs to no option.
function options(place) {
  const general = [], chapters = [];
  for (const one of [...place.parentElement.children]) {
    const chapter = chapters[chapters.length - 1];
    if (one.tagName === "H2") chapters.push({ heading: one, entries: [] });
    else if (one.tagName === "H3" && one.textContent.includes("=")) chapter.entries.push({ nodes: [one] });
    else if (chapter && chapter.entries.length) chapter.entries[chapter.entries.length - 1].nodes.push(one);
    else if (one !== place && one.tagName !== "H1") general.push(one);
  }
  for (const entry of chapters.flatMap((chapter) => chapter.entries)) {
    entry.text = entry.nodes.map((one) => one.textContent).join(" ").toLowerCase();
  }
  return { general, chapters };
}

// Screen readers name the search, which the theme does not.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");

// What is wider than its place scrolls sideways, by the keyboard too, once it can have the focus.
const wide = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth <= target.clientWidth) { target.removeAttribute("tabindex"); continue; }
    target.tabIndex = 0;
    target.setAttribute("role", "group");
    target.setAttribute("aria-label", target.tagName === "CODE" ? "Code" : "Table");
  }
});
window.addEventListener("load", () => { // the theme has wrapped the tables by now
  for (const one of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) wide.observe(one);
});

const FIGURES = { filter, noise, quadratic };
for (const place of document.querySelectorAll(".interactive")) FIGURES[place.dataset.figure](place);
