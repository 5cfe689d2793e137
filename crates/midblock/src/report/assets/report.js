// Draws the charts of the page from the JSON in #data. Names reach the page as text only, never as markup.
"use strict";
(() => {
  const { root, css, number, tick, element, textStyle, axisText, save } = page;
  const data = JSON.parse(document.getElementById("data").textContent);
  const controls = document.getElementById("controls");
  const [LAYER, DEPTH, VALUE, LO, HI, FLOOR] = [0, 1, 2, 3, 4, 5];
  const models = [...new Set([...data.models, ...data.series.map((series) => series.model)])];
  const hidden = new Set();
  const charts = [];

  // ---- words and colours
  const colorOf = (model) => css(`--s${models.indexOf(model) === 0 ? 0 : 1 + ((models.indexOf(model) - 1) % 6)}`);
  const layerName = (layer) => (layer === 0 ? "embedding" : `block ${layer}`);
  const nameOf = (series) => (series.reference ? `${series.model} against ${series.reference}` : series.model);
  // ---- one metric
  const byDepth = () => controls.elements.axis.value === "depth";
  const x = (point) => (byDepth() ? 100 * point[DEPTH] : point[LAYER]);
  const curvesOf = (metric) => data.series.filter((series) =>
    series.metric === metric && !hidden.has(series.model) &&
    (series.dataset === "" || series.dataset === controls.elements.dataset.value));

  // The area between lo and hi, in as many pieces as undefined points cut it into.
  const band = (series, color) => {
    const points = series.points.filter((point) => point[LO] !== null && point[HI] !== null);
    if (!points.length) return [];
    const pieces = [[]];
    for (const point of series.points) {
      if (point[LO] === null || point[HI] === null) pieces.push([]);
      else pieces.at(-1).push(point);
    }
    return [{
      type: "custom", id: `band ${nameOf(series)}`, silent: true, clip: true, z: 1,
      encode: { x: 0, y: [1, 2] },
      data: points.map((point) => [x(point), point[LO], point[HI]]),
      renderItem: (params, api) => params.dataIndexInside !== 0 ? undefined : {
        type: "group",
        children: pieces.filter((piece) => piece.length > 1).map((piece) => ({
          type: "polygon",
          shape: { points: [
            ...piece.map((point) => api.coord([x(point), point[HI]])),
            ...piece.toReversed().map((point) => api.coord([x(point), point[LO]])),
          ] },
          style: { fill: color, opacity: 0.17 },
        })),
      },
    }];
  };

  const line = (series, color) => ({
    type: "line", id: `line ${nameOf(series)}`, name: nameOf(series), z: 3,
    data: series.points.map((point) => [x(point), point[VALUE] ?? "-", point[LAYER], point[LO], point[HI], point[FLOOR]]),
    encode: { x: 0, y: 1 }, color, lineStyle: { width: 1.9, color },
    symbol: "circle", symbolSize: 5, showSymbol: series.points.length < 3, connectNulls: false,
    emphasis: { disabled: true },
  });

  const floor = (series, color) => {
    const points = series.points.filter((point) => point[FLOOR] !== null);
    return points.length && controls.elements.floor.checked ? [{
      type: "line", id: `floor ${nameOf(series)}`, silent: true, symbol: "none", z: 2, color,
      lineStyle: { width: 1.3, type: "dashed", color, opacity: 0.75 },
      data: points.map((point) => [x(point), point[FLOOR]]), tooltip: { show: false },
    }] : [];
  };

  // A metric that spans decades would show nothing but its last blocks on a linear axis.
  const wantsLog = (curves) => {
    const of = (index) => curves.flatMap((series) => series.points.map((point) => point[index])).filter((value) => value !== null);
    const [values, ends] = [of(VALUE), of(LO)];
    return values.length > 0 && Math.min(...values, ...ends) > 0 && Math.max(...values) / Math.min(...values) > 1000;
  };

  // The axis ends just beyond the data, but does not go below zero for the sake of the margin alone. Such ends are no
  // round numbers: only a zero gets its label.
  const ends = (curves) => {
    const shown = controls.elements.floor.checked ? [VALUE, LO, HI, FLOOR] : [VALUE, LO, HI];
    const values = curves.flatMap((series) => series.points.flatMap((point) => shown.map((index) => point[index])))
      .filter((value) => value !== null);
    if (!values.length) return {};
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.06 * (high - low || Math.abs(high) || 1);
    const min = low >= 0 && low < 3 * margin ? 0 : low - margin;
    return { min, max: high + margin, labels: { showMinLabel: min === 0, showMaxLabel: false } };
  };

  const tooltip = (items) => {
    const tip = document.createElement("div");
    tip.className = "tip";
    const lines = items.filter((item) => item.seriesId.startsWith("line "));
    if (!lines.length) return "";
    const layer = lines[0].value[2];
    element("b", layerName(layer) + (byDepth() ? ` · ${number(lines[0].value[0])} %` : ""), tip);
    for (const { value, seriesName, color } of lines) {
      const row = element("div", "", tip);
      element("i", "", row).style.background = color;
      element("span", seriesName, row).className = "name";
      element("b", value[1] === "-" ? "–" : number(value[1]), row);
      const more = [];
      if (typeof value[3] === "number" && typeof value[4] === "number") more.push(`95 %: ${number(value[3])} to ${number(value[4])}`);
      if (typeof value[5] === "number") more.push(`floor ${number(value[5])}`);
      if (more.length) element("small", more.join(", "), tip).style.display = "block";
    }
    return tip;
  };

  const optionOf = (metric) => {
    const curves = curvesOf(metric);
    const log = wantsLog(curves);
    const end = log ? {} : ends(curves);
    const series = curves.flatMap((curve) => {
      const color = colorOf(curve.model);
      return [line(curve, color), ...band(curve, color), ...floor(curve, color)];
    });
    const [from, to] = byDepth() ? [20, 80] : [0.2 * data.blocks, 0.8 * data.blocks];
    if (series.length) {
      series[0].markArea = { silent: true, itemStyle: { color: css("--band") }, data: [[{ xAxis: from }, { xAxis: to }]] };
    }
    const axis = { axisLabel: axisText(), nameTextStyle: axisText(), splitLine: { lineStyle: { color: css("--split") } } };
    return {
      animation: false, backgroundColor: "transparent", textStyle,
      grid: { left: 0, right: 12, top: 14, bottom: 0, outerBoundsMode: "same", outerBounds: { left: 0, right: 4, top: 4, bottom: 0 } },
      xAxis: {
        ...axis, type: "value", min: 0, max: byDepth() ? 100 : data.blocks, name: byDepth() ? "relative depth, %" : "layer (0 = embedding)",
        nameLocation: "middle", nameGap: 22, splitLine: { show: false }, axisLine: { show: true, lineStyle: { color: css("--axis") } },
        axisTick: { show: true, lineStyle: { color: css("--axis") } }, minInterval: 1,
      },
      yAxis: {
        ...axis, type: log ? "log" : "value", scale: true, splitNumber: 4, min: end.min, max: end.max,
        axisLabel: { ...axisText(), ...end.labels, formatter: tick }, axisLine: { show: false }, axisTick: { show: false },
        splitLine: { ...axis.splitLine, showMinLine: false, showMaxLine: false },
      },
      tooltip: {
        trigger: "axis", confine: true, formatter: tooltip, backgroundColor: css("--paper"), borderColor: css("--line"),
        textStyle: { color: css("--ink") }, axisPointer: { lineStyle: { color: css("--axis"), type: "solid" } },
      },
      dataZoom: [{
        type: "inside", filterMode: "none", zoomOnMouseWheel: "shift", moveOnMouseMove: "shift", moveOnMouseWheel: false,
        preventDefaultMouseMove: false,
      }],
      series,
    };
  };

  // ---- the heat map of weight matrices
  const viridis = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];
  const heatOption = () => {
    const map = data.weights[Number(document.getElementById("heatmap-choice").value)];
    const cells = map.cells.filter((cell) => cell[2] !== null);
    const values = cells.map((cell) => cell[2]);
    const text = axisText();
    return {
      animation: false, backgroundColor: "transparent", textStyle,
      grid: { left: 4, right: 8, top: 8, bottom: 64, outerBoundsMode: "same", outerBounds: { left: 4, right: 4, top: 4, bottom: 58 } },
      xAxis: { type: "category", data: Array.from({ length: data.blocks }, (_, index) => index + 1), name: "block",
        nameLocation: "middle", nameGap: 22, axisLabel: text, nameTextStyle: text, axisTick: { show: false }, axisLine: { show: false } },
      yAxis: { type: "category", inverse: true, data: map.matrices, axisLabel: { ...text, fontSize: innerWidth < 500 ? 9 : 11 },
        axisTick: { show: false }, axisLine: { show: false } },
      visualMap: { type: "continuous", min: Math.min(...values), max: Math.max(...values), calculable: false, orient: "horizontal",
        left: "center", bottom: 2, itemWidth: 10, itemHeight: 160, text: [number(Math.max(...values)), number(Math.min(...values))],
        textStyle: text, inRange: { color: viridis } },
      tooltip: { confine: true, backgroundColor: css("--paper"), borderColor: css("--line"), textStyle: { color: css("--ink") },
        formatter: ({ value }) => {
          const tip = document.createElement("div");
          tip.className = "tip";
          element("b", `block ${value[0] + 1} · ${map.matrices[value[1]]}`, tip);
          element("div", number(value[2]), tip);
          return tip;
        } },
      series: [{ type: "heatmap", id: "heatmap", data: cells.map(([block, matrix, value]) => [block - 1, matrix, value]),
        itemStyle: { borderColor: css("--paper"), borderWidth: 1 }, emphasis: { itemStyle: { borderColor: css("--ink") } } }],
    };
  };

  // ---- drawing
  const draw = (chart) => {
    const option = chart.option();
    chart.view.setOption(option, { notMerge: true });
    const count = (kind) => option.series.filter((series) => series.id.startsWith(kind)).length;
    chart.card.dataset.lines = count("line");
    chart.card.dataset.bands = count("band");
    chart.card.dataset.floors = count("floor");
    chart.card.dataset.heatmaps = count("heatmap");
    const remark = chart.card.querySelector(".note");
    if (remark) {
      const words = [];
      if (!option.series.length) words.push("Nothing was measured here for the models shown.");
      if (option.yAxis.type === "log") words.push("Logarithmic axis.");
      remark.textContent = words.join(" ");
      remark.hidden = !words.length;
    }
  };
  const drawAll = () => {
    charts.forEach(draw);
    const chosen = controls.elements.dataset.value;
    for (const table of document.querySelectorAll("[data-dataset]")) {
      table.hidden = table.dataset.dataset !== "" && table.dataset.dataset !== chosen;
    }
    const heat = document.getElementById("heatmap-choice");
    for (const table of document.querySelectorAll("[data-heatmap-table]")) table.hidden = table.dataset.heatmapTable !== heat.value;
    for (const swatch of document.querySelectorAll("#legend i")) swatch.style.background = colorOf(swatch.dataset.model);
  };

  // ---- pictures: on white, with title and legend, whatever the page looks like
  const picture = (chart, kind) => {
    root.classList.add("printing");
    const option = chart.option();
    root.classList.remove("printing");
    const title = chart.card.querySelector("h3")?.textContent ?? document.getElementById("heatmap-choice").selectedOptions[0].textContent;
    const chosen = controls.elements.dataset.value;
    option.backgroundColor = "#ffffff";
    const curves = curvesOf(chart.card.dataset.metric);
    const remarks = [
      curves.some((series) => series.dataset) && chosen,
      chart.card.dataset.bands > 0 && "bands: 95 % interval",
      chart.card.dataset.floors > 0 && "dashed: permutation floor",
      curves.length > 0 && "grey: 20 to 80 % of the depth",
    ];
    option.title = {
      text: title, subtext: remarks.filter(Boolean).join(" · "), left: 12, top: 10, itemGap: 8,
      textStyle: { fontSize: 16, lineHeight: 20, color: "#16191d" }, subtextStyle: { lineHeight: 14, color: "#59616b" },
    };
    Object.assign(option.grid, { left: 16, right: 24, top: 66, outerBounds: { left: 14, right: 20, top: 60, bottom: 58 } });
    if (chart.card.dataset.lines !== "0") {
      option.grid.bottom = 62;
      option.legend = { bottom: 8, itemStyle: { opacity: 0 }, data: option.series.filter((series) => series.name).map((series) => series.name) };
    }
    const name = [title, remarks[0] || ""].join("-");
    save(option, name, kind);
  };

  // ---- controls
  const legend = document.getElementById("legend");
  for (const model of models) {
    const button = element("button", "", legend);
    button.type = "button";
    button.title = model;
    button.setAttribute("aria-pressed", "true");
    element("i", "", button).dataset.model = model;
    button.append(model);
    button.addEventListener("click", () => {
      hidden.has(model) ? hidden.delete(model) : hidden.add(model);
      button.setAttribute("aria-pressed", String(!hidden.has(model)));
      drawAll();
    });
  }
  controls.addEventListener("change", drawAll);
  controls.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("heatmap-choice")?.addEventListener("change", drawAll);
  for (const card of document.querySelectorAll(".card")) {
    const view = echarts.init(card.querySelector(".chart"), null, { renderer: "svg" });
    const chart = { card, view, option: "heatmap" in card.dataset ? heatOption : () => optionOf(card.dataset.metric) };
    charts.push(chart);
    for (const button of card.querySelectorAll("[data-export]")) {
      button.addEventListener("click", () => picture(chart, button.dataset.export));
    }
    card.querySelector(".chart").addEventListener("dblclick", () => draw(chart));
    new ResizeObserver(() => { if (!root.classList.contains("printing")) view.resize(); }).observe(card.querySelector(".chart"));
  }
  drawAll();
  root.dataset.midblockCharts = charts.length;

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const chart of charts) {
      chart.view.resize(chart.card.classList.contains("wide") ? { width: 640, height: 250 } : { width: 300, height: 180 });
    }
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const chart of charts) chart.view.resize({ width: "auto", height: "auto" });
    drawAll();
  });
})();
