// Draws the charts of a training run from the JSON in #data.
"use strict";
(() => {
  const { root, css, number, tick, element, textStyle, axisText, save } = page;
  const data = JSON.parse(document.getElementById("data").textContent);
  const [STEP, LOSS, LR, GRADIENT, SPEED, TRAINED_SPEED, OBJECTIVE] = [0, 1, 2, 3, 4, 5, 6];
  const charts = [];
  const column = (index) => data.steps.map((step) => [step[STEP], step[index]]);

  // A mean that forgets: over about a twentieth of the run, without the bias of its start.
  const smoothed = (points) => {
    const keep = 1 - 1 / Math.max(2, points.length / 20);
    let [mean, weight] = [0, 0];
    return points.map(([step, value]) => {
      mean = keep * mean + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return [step, mean / weight];
    });
  };

  const line = (name, points, color, more = {}) => ({
    type: "line", id: `line ${name}`, name, data: points, color, lineStyle: { width: 1.9, color, ...more.lineStyle },
    symbol: "circle", symbolSize: 4, showSymbol: points.length < 3, emphasis: { disabled: true }, z: more.z ?? 3,
  });
  const curves = {
    loss: () => {
      const points = column(LOSS);
      const many = points.length > 20;
      const series = [line("training", points, css("--s1"), many ? { lineStyle: { width: 1, opacity: 0.35 }, z: 2 } : {})];
      if (many) series.push(line("training, smoothed", smoothed(points), css("--s1")));
      if (data.evaluations.length) {
        const color = css("--s2");
        series.push({ ...line("evaluation", data.evaluations, color, { z: 4 }), showSymbol: true, symbolSize: 7 });
      }
      return series;
    },
    objective: () => [line("objective", column(OBJECTIVE), css("--s5"), { z: 4 }), line("loss", column(LOSS), css("--s1"))],
    lr: () => [line("learning rate", column(LR), css("--s3"))],
    gradient: () => [line("gradient norm", column(GRADIENT), css("--s4"))],
    drift: () => ["rotation of singular subspaces", "share of the change inside", "1 − CKA"].map((name, index) => {
      const points = data.drifts.filter((drift) => drift[index + 1] > 0).map((drift) => [drift[STEP], drift[index + 1]]);
      return { ...line(name, points, css(`--s${index + 1}`)), showSymbol: true, symbolSize: 6 };
    }),
    speed: () => [line("all tokens", column(SPEED), css("--s0")), line("tokens in the loss", column(TRAINED_SPEED), css("--s1"))],
  };

  const tooltip = (items) => {
    const tip = document.createElement("div");
    tip.className = "tip";
    element("b", `step ${items[0].value[0]}`, tip);
    for (const { value, seriesName, color } of items) {
      const row = element("div", "", tip);
      element("i", "", row).style.background = color;
      element("span", seriesName, row).className = "name";
      element("b", number(value[1]), row);
    }
    return tip;
  };

  const optionOf = (kind) => {
    const series = curves[kind]();
    const axis = { axisLabel: axisText(), nameTextStyle: axisText(), splitLine: { lineStyle: { color: css("--split") } } };
    const fromZero = kind !== "loss" && kind !== "objective";
    return {
      animation: false, backgroundColor: "transparent", textStyle,
      grid: { left: 0, right: 12, top: series.length > 1 ? 30 : 14, bottom: 0, outerBoundsMode: "same",
        outerBounds: { left: 0, right: 4, top: 4, bottom: 0 } },
      legend: series.length > 1 ? { top: 0, right: 8, itemWidth: 16, itemHeight: 8, textStyle: axisText() } : undefined,
      xAxis: { ...axis, type: "value", name: "step", nameLocation: "middle", nameGap: 22, splitLine: { show: false }, minInterval: 1,
        min: data.evaluations.length ? 0 : "dataMin", max: "dataMax", axisLine: { show: true, lineStyle: { color: css("--axis") } },
        axisTick: { show: true, lineStyle: { color: css("--axis") } } },
      yAxis: { ...axis, type: kind === "drift" ? "log" : "value", scale: !fromZero, splitNumber: 4, axisLabel: { ...axisText(), formatter: tick },
        axisLine: { show: false }, axisTick: { show: false } },
      tooltip: { trigger: "axis", confine: true, formatter: tooltip, backgroundColor: css("--paper"), borderColor: css("--line"),
        textStyle: { color: css("--ink") }, axisPointer: { lineStyle: { color: css("--axis"), type: "solid" } } },
      dataZoom: [{ type: "inside", filterMode: "none", zoomOnMouseWheel: "shift", moveOnMouseMove: "shift", moveOnMouseWheel: false,
        preventDefaultMouseMove: false }],
      series,
    };
  };

  const draw = (chart) => {
    const option = optionOf(chart.kind);
    chart.view.setOption(option, { notMerge: true });
    chart.card.dataset.lines = option.series.length;
  };

  // Pictures: on white, with a title, whatever the page looks like.
  const picture = (chart, format) => {
    root.classList.add("printing");
    const option = optionOf(chart.kind);
    root.classList.remove("printing");
    const title = chart.card.querySelector("h3").textContent;
    option.backgroundColor = "#ffffff";
    option.title = { text: title, left: 12, top: 10, textStyle: { fontSize: 16, color: "#16191d" } };
    if (option.legend) Object.assign(option.legend, { top: 14, right: 20 });
    Object.assign(option.grid, { left: 16, right: 24, top: 56, bottom: 16, outerBounds: { left: 14, right: 20, top: 50, bottom: 14 } });
    save(option, title, format);
  };

  for (const card of document.querySelectorAll(".card[data-chart]")) {
    const view = echarts.init(card.querySelector(".chart"), null, { renderer: "svg" });
    const chart = { card, view, kind: card.dataset.chart };
    charts.push(chart);
    for (const button of card.querySelectorAll("[data-export]")) {
      button.addEventListener("click", () => picture(chart, button.dataset.export));
    }
    card.querySelector(".chart").addEventListener("dblclick", () => draw(chart));
    new ResizeObserver(() => { if (!root.classList.contains("printing")) view.resize(); }).observe(card.querySelector(".chart"));
  }
  const drawAll = () => charts.forEach(draw);
  drawAll();
  root.dataset.midblockCharts = charts.length + Number(root.dataset.midblockCharts || 0);

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
