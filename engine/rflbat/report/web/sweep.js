function drawBars() {
  const traces = data.bars.map((bar) => ({
    type: "bar", name: bar.name, x: bar.labels, y: inPercent(bar.mean),
    error_y: { type: "data", array: inPercent(bar.sd), color: "#1d1f21", thickness: 1.2 },
    marker: { color: bar.colour },
    hovertemplate: "%{x}<br>" + bar.name + " %{y:.1f} %<extra></extra>",
  }));
  Plotly.newPlot("bars-plot", traces, layout({ barmode: "group", yaxis: rateAxis("Rate (%)"), xaxis: { type: Array.isArray(data.bars[0].labels[0]) ? "multicategory" : "category" } }), settings);
}

function band(each, metric) {
  const mean = inPercent(each[metric].mean), sd = each[metric].sd.map((value) => 100 * (value || 0));
  const there = each.rounds.map((_, at) => at).filter((at) => mean[at] !== null);
  const x = there.map((at) => each.rounds[at]);
  const edge = (sign) => there.map((at) => mean[at] + sign * sd[at]);
  const filled = {
    type: "scatter", x: [...x, ...x.slice().reverse()], y: [...edge(1), ...edge(-1).reverse()], fill: "toself", mode: "none",
    fillcolor: each.colour + "33", hoverinfo: "skip", showlegend: false, legendgroup: each.name,
  };
  return [filled, { ...line(each.name, x, there.map((at) => mean[at]), each.colour, each.dash, each.symbol), legendgroup: each.name }];
}

function drawBands() {
  const controls = element("bands-controls");
  const show = () => {
    const chosen = data.bands.filter((each) => each.setting === setting.value);
    Plotly.react("bands-plot", chosen.flatMap((each) => band(each, metric.value)), layout({ xaxis: roundAxis(chosen.flatMap((each) => each.rounds)), yaxis: rateAxis(metric.selectedOptions[0].text + " (%)") }), settings);
    const seeds = [...new Set(chosen.map((each) => each.seeds))].join(", ");
    element("bands-status").textContent = setting.selectedOptions[0].text + ": mean and standard deviation over " + seeds + " seeds";
  };
  const setting = choice("Setting", data.settings.map((name) => [name, name || "all runs"]), controls, show);
  const metric = choice("Measure", [["accuracy", "Accuracy"], ["attack_success_rate", "Attack success rate"]], controls, show);
  // An untargeted attack has no success rate.
  metric.value = data.bands.some((each) => each.attack_success_rate.mean.some((value) => value !== null)) ? "attack_success_rate" : "accuracy";
  show();
}

drawBars();
drawBands();
