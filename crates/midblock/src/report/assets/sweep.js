// Draws a sweep from the JSON in #data: for each measure a dot plot by pattern and a scatter against trained parameters.
"use strict";
(() => {
  const { root, css, number, tick, element, textStyle, axisText, save } = page;
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = [];
  const colors = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s0"];
  const color = (index) => css(colors[index % colors.length]);

  // An interval as a line with a dot, along the x axis or the y axis.
  const mark = (along) => (params, api) => {
    const [other, mean, low, high] = [api.value(0), api.value(1), api.value(2), api.value(3)];
    const at = (value) => api.coord(along === "x" ? [value, other] : [other, value]);
    const [from, to, dot] = [at(low), at(high), at(mean)];
    const fill = color(api.value(4));
    return { type: "group", children: [
      { type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }, style: { stroke: fill, lineWidth: 2, opacity: 0.55 } },
      { type: "circle", shape: { cx: dot[0], cy: dot[1], r: 5 }, style: { fill } },
    ] };
  };

  const tooltip = (measure) => ({ value }) => {
    const row = data.rows[value[4]];
    const tip = document.createElement("div");
    tip.className = "tip";
    element("b", row.name, tip);
    const line = (name, text) => {
      const made = element("div", "", tip);
      element("span", name, made).className = "name";
      element("b", text, made);
    };
    line(measure.title, number(value[1]));
    line("95 % interval", `${number(value[2])} to ${number(value[3])}`);
    line("trained parameters", row.parameters.toLocaleString("en"));
    return tip;
  };

  const optionOf = ({ kind, measure }) => {
    const along = kind === "patterns" ? "x" : "y";
    const points = data.rows.flatMap((row, index) => {
      const value = measure.values[index];
      return value ? [[kind === "patterns" ? index : row.parameters, ...value, index]] : [];
    });
    const axis = { axisLabel: axisText(), nameTextStyle: axisText(), splitLine: { lineStyle: { color: css("--split") } },
      axisLine: { show: false }, axisTick: { show: false } };
    const ends = [...points.flatMap((point) => point.slice(1, 4)), ...measure.references];
    const [least, most] = [Math.min(...ends), Math.max(...ends)];
    const margin = 0.06 * (most - least) || 0.01 * Math.abs(most) || 1;
    const bound = (value) => Number(value.toPrecision(3));
    const values = { ...axis, type: "value", min: bound(least - margin), max: bound(most + margin),
      axisLabel: { ...axisText(), formatter: tick, showMinLabel: false, showMaxLabel: false } };
    const names = { ...axis, type: "category", inverse: true, data: data.rows.map((row) => row.name), splitLine: { show: false },
      axisLabel: { ...axisText(), width: 150, overflow: "truncate", interval: 0 } };
    const parameters = { ...axis, type: "value", scale: true, name: "trained parameters", nameLocation: "middle", nameGap: 22,
      splitNumber: 3, axisLabel: { ...axisText(), formatter: tick } };
    const series = { type: "custom", id: kind, data: points, renderItem: mark(along), clip: true,
      encode: along === "x" ? { x: [1, 2, 3], y: 0 } : { x: 0, y: [1, 2, 3] } };
    // The pretrained model: a dashed line through all patterns, or from the fewest parameters to the most.
    const places = points.map((point) => point[0]);
    const [first, last] = kind === "patterns" ? [0, data.rows.length - 1] : [Math.min(...places), Math.max(...places)];
    const references = measure.references.map((value, index) => ({ type: "line", id: `pretrained ${index}`, silent: true, symbol: "none",
      lineStyle: { color: css("--soft"), type: "dashed", width: 1.2 }, z: 1,
      data: [first, last].map((place) => (along === "x" ? [value, place] : [place, value])),
      endLabel: { show: false }, label: { show: false } }));
    return {
      animation: false, backgroundColor: "transparent", textStyle,
      grid: { left: 0, right: 16, top: 22, bottom: 0, outerBoundsMode: "same", outerBounds: { left: 0, right: 4, top: 4, bottom: 0 } },
      xAxis: along === "x" ? values : parameters, yAxis: along === "x" ? names : values,
      tooltip: { trigger: "item", confine: true, formatter: tooltip(measure), backgroundColor: css("--paper"), borderColor: css("--line"),
        textStyle: { color: css("--ink") } },
      series: [...references, series],
    };
  };

  const draw = (chart) => {
    chart.view.setOption(optionOf(chart), { notMerge: true });
    chart.card.dataset.lines = 1 + chart.measure.references.length;
  };
  const picture = (chart, format) => {
    root.classList.add("printing");
    const option = optionOf(chart);
    root.classList.remove("printing");
    const title = chart.card.querySelector("h3").textContent;
    option.backgroundColor = "#ffffff";
    option.title = { text: title, left: 12, top: 10, textStyle: { fontSize: 16, color: "#16191d" } };
    Object.assign(option.grid, { left: 16, right: 24, top: 66, bottom: 16, outerBounds: { left: 14, right: 20, top: 50, bottom: 14 } });
    save(option, title, format);
  };

  for (const card of document.querySelectorAll(".card")) {
    const view = echarts.init(card.querySelector(".chart"), null, { renderer: "svg" });
    const chart = { card, view, kind: card.dataset.chart, measure: data.measures[Number(card.dataset.measure)] };
    charts.push(chart);
    for (const button of card.querySelectorAll("[data-export]")) {
      button.addEventListener("click", () => picture(chart, button.dataset.export));
    }
    new ResizeObserver(() => { if (!root.classList.contains("printing")) view.resize(); }).observe(card.querySelector(".chart"));
  }
  const drawAll = () => charts.forEach(draw);
  drawAll();
  root.dataset.midblockCharts = charts.length;

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const chart of charts) chart.view.resize({ width: 320, height: 240 });
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const chart of charts) chart.view.resize({ width: "auto", height: "auto" });
    drawAll();
  });
})();
