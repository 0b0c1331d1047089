// Draws the figures in the colours of the page, light or dark, and sorts tables by a click on a heading.
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 640px)");
const touch = matchMedia("(pointer: coarse)");

function template() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = {
    gridcolor: colour("line"), linecolor: colour("line"), tickcolor: colour("line"), zerolinecolor: colour("line"),
    automargin: true, exponentformat: "power",
  };
  return {
    layout: {
      font: { color: colour("ink"), family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 12 : 13 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
      margin: { l: narrow.matches ? 8 : 16, r: narrow.matches ? 8 : 16, t: 16, b: 8 },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("soft"), font: { color: colour("ink") }, align: "left" },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      coloraxis: { colorbar: { outlinewidth: 0, thickness: 12 } },
    },
  };
}

const drawn = [...document.querySelectorAll(".figure")].map((place) => {
  const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  // On a touch screen a finger on a figure scrolls the page.
  const layout = { ...figure.layout, template: template(), dragmode: touch.matches ? false : "zoom" };
  Plotly.newPlot(place, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  return place;
});

for (const query of [dark, narrow]) {
  query.addEventListener("change", () => drawn.forEach((place) => Plotly.relayout(place, { template: template() })));
}

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, either way
  const numbers = Number(a) - Number(b);
  return Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const falling = heading.getAttribute("aria-sort") === "ascending";
    const body = heading.closest("table").tBodies[0];
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const key = (row) => row.cells[heading.cellIndex].dataset.key;
    const known = [...body.rows].filter((row) => key(row) !== "").sort((a, b) => compare(key(a), key(b)));
    const unknown = [...body.rows].filter((row) => key(row) === "");
    body.append(...(falling ? known.reverse() : known), ...unknown);
  });
}
