const rounds = data.rounds;

function drawCurves() {
  if (!element("curves-plot")) return;
  const lines = data.curves.map((each) => line(each.name, rounds.round, inPercent(each.values), each.colour, each.dash, each.symbol));
  const lost = rounds.round.filter((_, at) => rounds.nobody_kept[at]);
  if (lost.length) {
    const marker = { symbol: "x", size: 9, color: look.grey };
    lines.push({ type: "scatter", mode: "markers", name: "No client kept", x: lost, y: lost.map(() => 0), marker });
  }
  const shapes = [];
  if (data.attack_start > 0) {
    shapes.push({ type: "line", x0: data.attack_start, x1: data.attack_start, y0: 0, y1: 1, yref: "paper", line: { color: look.grey, dash: "dot" } });
  }
  Plotly.newPlot("curves-plot", lines, layout({ xaxis: roundAxis(rounds.round), yaxis: rateAxis("Rate on test data (%)"), shapes, hovermode: "x unified" }), settings);
}

function drawDetection() {
  if (!element("detection-plot")) return;
  const lines = data.detection.map((each) => line(each.name, rounds.round, inPercent(each.values), each.colour, each.dash, each.symbol));
  Plotly.newPlot("detection-plot", lines, layout({ xaxis: roundAxis(rounds.round), yaxis: rateAxis("Share (%)"), hovermode: "x unified" }), settings);
}

function pointText(part, at) {
  const lines = ["client " + part.client[at], part.samples[at] + " samples", (part.malicious[at] ? "malicious" : "benign") + ", " + data.stages[part.stage[at]].label];
  if (part.cluster[at] !== null) lines.push("cluster " + part.cluster[at]);
  if (part.score[at] !== null) lines.push(data.score_name + " " + part.score[at].toPrecision(4));
  return lines.join("<br>");
}

function planeTraces(part, judge) {
  const traces = [];
  const kinds = judge === "own" ? data.stages : [{ label: "kept", symbol: "circle" }, { label: "dropped", symbol: "x" }];
  const kept = judge === "own" ? null : new Set(part.shadows[judge]);
  for (const malicious of [0, 1]) {
    kinds.forEach((kind, number) => {
      const picked = part.client.map((_, at) => at).filter((at) => {
        const fate = judge === "own" ? part.stage[at] : Number(!kept.has(part.client[at]));
        return part.malicious[at] === malicious && fate === number && part.x[at] !== null;
      });
      traces.push({
        type: "scatter", mode: "markers", name: (malicious ? "malicious, " : "benign, ") + kind.label,
        x: picked.map((at) => part.x[at]), y: picked.map((at) => part.y[at]),
        text: picked.map((at) => pointText(part, at)), hovertemplate: "%{text}<extra></extra>",
        showlegend: data.present[judge].includes(malicious + ":" + number),
        marker: { symbol: kind.symbol, size: 10, opacity: 0.85, color: malicious ? look.malicious : look.benign, line: { color: "#fff", width: 1 } },
      });
    });
  }
  return traces;
}

function planeStatus(part, judge) {
  const counts = data.stages.map((stage, number) => [stage.label, part.stage.filter((each) => each === number).length]);
  const kept = judge === "own" ? counts[0][1] : part.shadows[judge].length;
  const rejected = judge === "own" ? counts.slice(1).filter((each) => each[1]).map((each) => each[1] + " " + each[0]) : [part.client.length - kept + " dropped"];
  return "Round " + part.round + ": " + kept + " of " + part.client.length + " kept" + (rejected.length ? "; " + rejected.join(", ") : "");
}

function drawPlane() {
  if (!element("plane-plot")) return;
  const parts = data.clients, controls = element("plane-controls");
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: parts.length - 1, value: parts.length - 1, id: "plane-round" });
  const play = document.createElement("button");
  play.type = "button";
  play.id = "plane-play";
  play.textContent = "Play";
  controls.append(play);
  labelled("Round", slider, controls);
  let judge = null, timer = null;
  const show = () => {
    const part = parts[Number(slider.value)], by = judge ? judge.value : "own";
    slider.setAttribute("aria-valuetext", "round " + part.round);
    const equal = { title: { text: "Second principal component" }, scaleanchor: "x", scaleratio: 1 };
    const shape = layout({ xaxis: { title: { text: "First principal component" } }, yaxis: equal, datarevision: slider.value + by });
    Plotly.react("plane-plot", planeTraces(part, by), shape, settings);
    element("plane-status").textContent = planeStatus(part, by);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  if (data.shadow_names.length) {
    judge = choice("Decision of", [["own", data.defense], ...data.shadow_names.map((name) => [name, name])], controls, show);
  }
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "Pause";
    if (Number(slider.value) === parts.length - 1) slider.value = 0;
    show();
    timer = setInterval(() => {
      if (Number(slider.value) === parts.length - 1) return stop();
      slider.value = Number(slider.value) + 1;
      show();
    }, 500);
  });
  show();
}

function drawFates() {
  if (!element("fates-plot")) return;
  const fates = data.fates, count = look.fates.length;
  const scale = [["none", "#ffffff"], ...look.fates].flatMap((each, at) => [[at / (count + 1), each[1]], [(at + 1) / (count + 1), each[1]]]);
  const text = fates.z.map((row) => row.map((fate) => (fate ? look.fates[fate - 1][0] : "not in this round")));
  const trace = {
    type: "heatmap", x: fates.rounds, y: fates.clients.map(String), z: fates.z, text, zmin: -0.5, zmax: count + 0.5, colorscale: scale,
    showscale: false, hovertemplate: "client %{y}, round %{x}<br>%{text}<extra></extra>", xgap: fates.rounds.length <= 60 ? 1 : 0,
  };
  Plotly.newPlot("fates-plot", [trace], layout({ xaxis: roundAxis(fates.rounds), yaxis: { title: { text: "Client" }, type: "category", nticks: 12 } }), settings);
  showLegend("fates-legend", fates.legend);
}

function drawShadows() {
  if (!element("shadows-plot")) return;
  const lines = data.shadow_lines.map((each) => line(each.name, each.rounds, inPercent(each.values), each.colour, each.dash, each.symbol));
  Plotly.newPlot("shadows-plot", lines, layout({ xaxis: roundAxis(rounds.round), yaxis: rateAxis("Weight of malicious clients (%)"), hovermode: "x unified" }), settings);
}

drawCurves();
drawPlane();
drawFates();
drawDetection();
drawShadows();
