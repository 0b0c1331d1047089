// Draws the charts with the library that the page carries, and sorts tables by a click on a heading.
const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
const made = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });

// The library is compressed. Its names stay within a function, so that they meet none of the page's.
async function unpack() {
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old: it cannot unpack the library");
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.nonce = document.querySelector("script[type=module]").nonce; // of a page that a server sent
  script.textContent = `(() => {${await new Response(stream).text()}})()`;
  document.head.append(script);
  script.remove();
  if (!window.vegaEmbed) throw new Error("the library did not start");
}

// The values of a table as rows. A column of repeated texts holds each text once.
function rows(columns) {
  const names = Object.keys(columns);
  const full = names.map((name) => {
    const column = columns[name];
    return Array.isArray(column) ? column : column.at.map((at) => (at === null ? null : column.of[at]));
  });
  return full[0].map((_, at) => {
    const row = {};
    names.forEach((name, place) => { if (full[place][at] !== null || name === "y") row[name] = full[place][at]; });
    return row;
  });
}

// Colours are variables of the page's style, so light, dark and print need no second drawing.
function config() {
  const font = getComputedStyle(document.body).fontFamily;
  const text = { labelColor: "var(--soft)", titleColor: "var(--ink)", labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500 };
  return {
    font, aria: false, background: null, view: { stroke: null }, range: { category: parsed("palette") },
    axis: {
      ...text, gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)", labelPadding: 6,
      titlePadding: 10, labelFlush: false, tickSize: 4,
    },
    legend: { ...text, orient: "top", gradientLength: 220, labelOverlap: "greedy", labelSeparation: 6, offset: 8 },
    text: { color: "var(--ink)", fontSize: 12 }, point: { strokeWidth: 1.5 },
  };
}

const bubble = made("div", "bubble");
bubble.hidden = true;
document.body.append(bubble);

// What the mouse is over: lines of text, of which the first is bold, or values by name.
function showTooltip(_, event, item, value) {
  const known = (text) => text !== null && text !== undefined && !["", "undefined", "null"].includes(String(text));
  bubble.hidden = !known(value);
  if (bubble.hidden) return;
  bubble.replaceChildren();
  const add = (text) => String(text).split("\n").forEach((line) => bubble.append(made("div", "", line)));
  if (typeof value === "object") {
    // Vega-Lite (6.4) looks for texts in the cell around the nearest point instead of in its row.
    const row = item.datum?.datum ?? item.datum ?? {};
    const name = row.series ?? row.name;
    const texts = { name: row.hint?.startsWith(`${name}\n`) ? "" : name, " ": row.dash, hint: row.hint };
    for (const [name, text] of Object.entries({ ...value, ...texts })) {
      if (!known(text)) continue;
      if (name in texts) { add(text); continue; }
      const line = made("div", "value", `${name} `);
      line.append(made("b", "", String(text)));
      bubble.append(line);
    }
  } else add(value);
  const { width, height } = bubble.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? Math.max(4, event.clientX - 14 - width) : event.clientX + 14;
  bubble.style.left = `${left}px`;
  bubble.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 4))}px`;
}

const marks = { line: "", dash: "", circle: "●", x: "✕", star: "★", "triangle-down": "▽" };

// A legend of buttons, which the keyboard reaches and a phone wraps; a pressed one highlights what has its name.
function legend(entries, view) {
  const chosen = new Set();
  const group = made("div", "legend");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "highlight");
  for (const { name, colour, drawn } of entries) {
    const button = made("button", "");
    const swatch = made("span", `swatch ${drawn}`, marks[drawn] ?? "●");
    swatch.style.color = colour;
    swatch.setAttribute("aria-hidden", "true");
    button.type = "button";
    button.append(swatch, name);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      chosen[chosen.has(name) ? "delete" : "add"](name);
      button.setAttribute("aria-pressed", String(chosen.has(name)));
      view.signal("chosen", [...chosen]).runAsync();
    });
    group.append(button);
  }
  return group;
}

// The values of a chart as a table, which the keyboard and a screen reader reach; made each time it is opened.
function values(spec, view, heading) {
  const parts = [spec, ...(spec.layer ?? [])];
  const names = [...new Set(parts.map((part) => part.data?.name).filter(Boolean))];
  const titles = { series: "name", name: "name", dash: "line", x: "x", x2: "to", y: "y", y2: "to", value: "value", hint: "note" };
  for (const channel of parts.flatMap((part) => Object.values(part.encoding ?? {}))) {
    if (channel.title && channel.field in titles) titles[channel.field] = channel.title;
  }
  const details = made("details", "values");
  details.append(made("summary", "", "Values"));
  details.addEventListener("toggle", () => {
    details.querySelector(".scroll")?.remove();
    if (!details.open) return;
    const all = names.flatMap((name) => view.data(name));
    const fields = Object.keys(titles).filter((field) => all.some((row) => row[field] !== undefined));
    const table = made("table", "");
    const head = table.createTHead().insertRow();
    for (const field of fields) head.append(Object.assign(made("th", "", titles[field]), { scope: "col" }));
    const body = table.createTBody();
    for (const row of all) {
      const line = body.insertRow();
      for (const field of fields) line.insertCell().textContent = row[field] ?? "";
    }
    const scroll = made("div", "scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `values of ${heading}`);
    scroll.append(table);
    details.append(scroll);
  });
  return details;
}

async function draw(figure, spec, data) {
  const place = figure.querySelector(".chart");
  const summary = place.querySelector(".summary");
  const entries = spec.usermeta?.legend ?? [];
  spec.datasets = data;
  for (const layer of spec.layer ?? [spec]) {
    for (const channel of [layer.encoding?.color, layer.encoding?.strokeDash]) {
      if (entries.length && ["series", "dash"].includes(channel?.field)) channel.legend = null; // the buttons replace it
    }
  }
  const inner = made("div", "vega");
  place.prepend(inner);
  const drawn = await vegaEmbed(inner, { width: "container", autosize: { type: "fit", contains: "padding" }, ...spec }, {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config: config(), tooltip: showTooltip,
  });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", summary.textContent);
  inner.setAttribute("aria-hidden", "true"); // the description says it all; a thousand marks would say it again
  summary.remove();
  if (entries.length) figure.prepend(legend(entries, drawn.view));
  const heading = figure.closest("section")?.querySelector("h2")?.textContent ?? "the chart";
  if (spec.encoding?.x?.field !== "axis") figure.append(values(spec, drawn.view, heading)); // a table has parallel lines
  return drawn.view;
}

function problem(figure, error) {
  figure.querySelector(".vega")?.remove();
  figure.querySelector(".chart").style.minHeight = "0";
  figure.append(made("p", "notes", `This chart cannot be drawn: ${error.message}.`));
}

async function drawAll() {
  const figures = [...document.querySelectorAll(".figure")];
  if (!figures.length) return;
  try {
    await unpack();
  } catch (error) {
    figures.forEach((figure) => problem(figure, error));
    return;
  }
  const data = Object.fromEntries(Object.entries(parsed("data")).map(([name, columns]) => [name, rows(columns)]));
  for (const figure of figures) {
    await draw(figure, parsed(figure.dataset.figure), data).catch((error) => problem(figure, error));
    await new Promise((next) => setTimeout(next)); // the page stays responsive meanwhile
  }
}

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, either way
  const numbers = Number(a) - Number(b);
  return Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
}

// The rows in the order of the column that was chosen last.
function sort(table) {
  const heading = table.querySelector("th[aria-sort]");
  if (!heading) return;
  const key = (row) => row.cells[heading.cellIndex].dataset.key;
  const all = [...table.tBodies[0].rows];
  const known = all.filter((row) => key(row) !== "").sort((a, b) => compare(key(a), key(b)));
  if (heading.getAttribute("aria-sort") === "descending") known.reverse();
  table.tBodies[0].append(...known, ...all.filter((row) => key(row) === ""));
}

addEventListener("click", (event) => {
  const heading = event.target.closest("th button")?.closest("th");
  if (!heading) return;
  const falling = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  sort(heading.closest("table"));
});

addEventListener("scroll", () => { bubble.hidden = true; }, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") bubble.hidden = true; });
drawAll();
