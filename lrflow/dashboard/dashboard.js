
// The dashboard: the list of runs keeps up with their folders, and the page of a run that is going on with its files.
const REFRESH = 2000; // milliseconds between two questions

async function ask(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(content.problem ?? `the dashboard answers ${answer.status}`), { answer });
  return content;
}

// Asks again and again, but not while nobody looks.
async function keepAsking(look, status) {
  for (;;) {
    if (!document.hidden) {
      try {
        if ((await look()) === false) return;
      } catch (error) {
        if (error.answer?.status === 404) { status(error.message); return; }
        status(error.answer ? error.message : "No answer: the dashboard has ended, or this machine is out of reach.");
      }
    }
    await new Promise((next) => setTimeout(next, REFRESH));
  }
}

function followList(list) {
  const table = document.querySelector("tr[data-name]")?.closest("table");
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const compare = document.getElementById("compare");
  const button = compare.querySelector("button");
  let version = list.dataset.version;
  let matching = null; // ids; null: all
  let problem = "";
  let unread = 0; // configs and curves
  const sweeps = document.getElementById("sweeps");
  let shownSweeps;
  const runs = () => [...(table?.tBodies[0].rows ?? [])];
  const announce = (text) => { if (shown.textContent !== text) shown.textContent = text; };

  function show() {
    for (const row of runs()) row.hidden = matching !== null && !matching.has(row.dataset.name);
    const count = runs().filter((row) => !row.hidden).length;
    const total = `${runs().length.toLocaleString("en")} run${runs().length === 1 ? "" : "s"}`;
    const text = count === runs().length ? total : `${count.toLocaleString("en")} of ${total}`;
    announce(problem || text + (unread > 20 ? `, still reading ${unread.toLocaleString("en")}` : ""));
  }

  function count() {
    const chosen = runs().filter((row) => row.querySelector("input").checked).length;
    button.disabled = chosen < 2;
    button.textContent = chosen < 2 ? "Select runs to compare" : `Compare ${chosen} runs`;
  }

  async function match() {
    const words = filter.value.trim();
    const found = words ? await ask(`/matches.json?words=${encodeURIComponent(words)}`) : {};
    if (words !== filter.value.trim()) return; // typed on meanwhile
    problem = found.problem ?? "";
    if (!problem) matching = found.ids ? new Set(found.ids) : null;
    show();
  }

  function replace(id, text) {
    const part = document.createElement("template");
    part.innerHTML = text;
    const row = part.content.firstElementChild;
    const old = runs().find((one) => one.dataset.name === id);
    if (!old) { table.tBodies[0].prepend(row); return; }
    row.querySelector("input").checked = old.querySelector("input").checked;
    const focused = old.contains(document.activeElement) ? document.activeElement.tagName : "";
    old.replaceWith(row);
    if (focused) row.querySelector(focused)?.focus({ preventScroll: true });
  }

  async function look() {
    const found = await ask(`/changes.json?since=${version}`);
    const changed = Object.entries(found.rows);
    version = found.version;
    unread = found.unread;
    if (found.sweeps !== undefined && found.sweeps !== shownSweeps) {
      const sorted = sweeps.querySelector("th[aria-sort]");
      const order = sorted && [sorted.cellIndex, sorted.getAttribute("aria-sort")];
      sweeps.innerHTML = shownSweeps = found.sweeps;
      if (order && sweeps.querySelector("table")) {
        sweeps.querySelectorAll("th")[order[0]].setAttribute("aria-sort", order[1]);
        sort(sweeps.querySelector("table"));
      }
    }
    if (!table && changed.length) location.reload();
    if (!table || (!changed.length && !found.gone.length)) { show(); return; }
    const places = new Map(runs().map((row) => [row.dataset.name, row]));
    for (const id of found.gone) places.get(id)?.remove();
    for (const [id, text] of changed) replace(id, text);
    sort(table);
    count();
    if (filter.value.trim()) await match(); else show();
  }

  let typing;
  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => match().catch((error) => announce(error.message)), 200);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea")) return;
    event.preventDefault();
    filter.focus();
  });
  document.addEventListener("change", count);
  count();
  if (filter.value.trim()) match(); // after the browser's Back
  keepAsking(look, announce);
}

function followRun(place) {
  const [status, above, below] = ["status", "above", "below"].map((name) => made("div", name));
  status.setAttribute("role", "status");
  place.replaceChildren(status, above);
  place.after(below);
  const cards = new Map();
  const texts = new Map();
  let at = "";
  let unpacked;

  async function update({ name, heading, caption, label, note, spec, data }) {
    let card = cards.get(name);
    if (!card) {
      card = { section: made("section", "card"), data: {} };
      card.figure = made("div", "figure");
      card.caption = made("p", "caption");
      card.note = made("p", "note");
      card.section.append(made("h2", "", heading), card.caption, card.figure, card.note);
      place.append(card.section);
      cards.set(name, card);
    }
    card.caption.textContent = caption;
    card.note.textContent = note;
    const fresh = Object.entries(data).filter(([key, columns]) => JSON.stringify(columns) !== card.data[key]);
    if (card.spec !== spec) {
      const height = JSON.parse(spec).height;
      const chart = made("div", "chart");
      chart.style.minHeight = `${height}px`;
      chart.append(made("p", "summary", label));
      card.figure.replaceChildren(chart);
      card.view?.finalize();
      const all = Object.fromEntries(Object.entries(data).map(([key, columns]) => [key, rows(columns)]));
      card.view = await draw(card.figure, JSON.parse(spec), all).catch((error) => problem(card.figure, error));
      card.spec = card.view && spec;
    } else if (fresh.length) {
      for (const [key, columns] of fresh) card.view.data(key, rows(columns));
      await card.view.runAsync();
      card.figure.querySelector(".chart").setAttribute("aria-label", label);
    }
    for (const [key, columns] of fresh) card.data[key] = JSON.stringify(columns);
  }

  async function look() {
    const found = await ask(`/runs/${place.dataset.run}/live.json?at=${encodeURIComponent(at)}`);
    status.textContent = "";
    if (found.figures) {
      if (found.ended) { location.reload(); return false; } // the page of a run that has ended
      for (const [part, text] of [[above, found.above], [below, found.below]]) {
        if (texts.get(part) !== text) part.innerHTML = text;
        texts.set(part, text);
      }
      unpacked ??= unpack();
      await unpacked;
      for (const figure of found.figures) await update(figure);
    }
    at = found.at;
    return true;
  }

  keepAsking(look, (text) => { status.replaceChildren(made("p", "notes", text)); });
}

const listed = document.getElementById("list");
if (listed) followList(listed);
const followed = document.getElementById("live");
if (followed) followRun(followed);
