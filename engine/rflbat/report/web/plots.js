"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const look = data.look;
// Drag to zoom, double-click to reset. The mode bar is off because it would cover the legend on a narrow screen.
const settings = { responsive: true, displayModeBar: false };

const element = (id) => document.getElementById(id);
const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1) + " %");
const inPercent = (values) => values.map((value) => (value === null ? null : 100 * value));

function layout(more) {
  const axis = { zeroline: false, gridcolor: "#e3e3e3", linecolor: "#8a8d91", automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    font: { family: "system-ui, sans-serif", size: 13, color: "#1d1f21" },
    margin: { l: 56, r: 12, t: 8, b: 48 },
    paper_bgcolor: "#fff",
    plot_bgcolor: "#fff",
    hovermode: "closest",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

const rateAxis = (title) => ({ title: { text: title }, range: [-3, 103] });
const roundAxis = (rounds) => ({ title: { text: "Round" }, tickformat: "d", dtick: Math.max(...rounds) <= 10 ? 1 : undefined });

function line(name, x, y, colour, dash, symbol) {
  const few = x.length <= 40;
  const mode = few ? "lines+markers" : "lines";
  const marker = { symbol: symbol, size: 7, color: colour };
  return { type: "scatter", mode, name, x, y, connectgaps: true, line: { color: colour, dash, width: 2 }, marker };
}

function labelled(text, control, parent) {
  const label = document.createElement("label");
  label.append(text, control);
  parent.append(label);
  return control;
}

function choice(text, options, parent, onChange) {
  const select = document.createElement("select");
  for (const [value, shown] of options) select.append(new Option(shown, value));
  select.addEventListener("change", onChange);
  return labelled(text, select, parent);
}

function showLegend(id, entries) {
  for (const [text, colour] of entries) {
    const item = document.createElement("li");
    const chip = document.createElement("span");
    chip.style.background = colour;
    item.append(chip, text);
    element(id).append(item);
  }
}
