// Draws the panels of a study from the JSON in #data: curves, points with intervals, heat maps, planes; a choice shows one of several.
"use strict";
(() => {
  const { root, css, number, tick, element, textStyle, axisText, save } = page;
  const { panels } = JSON.parse(document.getElementById("data").textContent);
  const charts = [];
  const colors = ["--s0", "--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];
  const color = (index) => css(colors[index % colors.length]);
  const isNumber = (value) => typeof value === "number";

  const axis = () => ({ axisLabel: axisText(), nameTextStyle: axisText(), splitLine: { lineStyle: { color: css("--split") } },
    axisLine: { show: false }, axisTick: { show: false } });
  const tooltipStyle = () => ({ confine: true, backgroundColor: css("--paper"), borderColor: css("--line"), textStyle: { color: css("--ink") } });
  const tip = (title) => {
    const made = document.createElement("div");
    made.className = "tip";
    if (title) element("b", title, made);
    return made;
  };
  const tipLine = (parent, fill, name, point) => {
    const row = element("div", "", parent);
    if (fill) element("i", "", row).style.background = fill;
    element("span", name, row).className = "name";
    element("b", number(point.y), row);
    const more = [isNumber(point.lo) && isNumber(point.hi) ? `95 %: ${number(point.lo)} to ${number(point.hi)}` : "", point.label];
    const text = more.filter(Boolean).join(" · ");
    if (text) element("small", text, parent).style.display = "block";
  };

  // The ends of an axis just beyond the data; a zero is an end only if data is near it. Other ends are no round numbers: no label.
  const ends = (values, log) => {
    if (!values.length) return { labels: {} };
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (log) return low > 0 ? { min: low / 1.2, max: high * 1.2, labels: { showMinLabel: false, showMaxLabel: false } } : { labels: {} };
    const margin = 0.06 * (high - low || Math.abs(high) || 1);
    const min = low >= 0 && low < 3 * margin ? 0 : low - margin;
    return { min, max: high + margin, labels: { showMinLabel: min === 0, showMaxLabel: false } };
  };
  const pointsOf = (panel) => (panel.kind === "bars" ? panel.groups.flatMap(([, points]) => points) : panel.series.flatMap((series) => series.points));
  const valuesOf = (panel) => [...pointsOf(panel).flatMap((point) => [point.y, point.lo, point.hi]), ...panel.references.map(([, value]) => value)]
    .filter(isNumber);
  const legend = (names) => (names.length < 2 ? undefined
    : { type: "scroll", top: 0, left: 0, icon: "circle", itemWidth: 9, itemHeight: 9, textStyle: axisText(), data: names });

  const band = (series, fill) => {
    const pieces = [[]];
    for (const point of series.points) {
      if (isNumber(point.lo) && isNumber(point.hi)) pieces.at(-1).push(point);
      else pieces.push([]);
    }
    if (!pieces.some((piece) => piece.length)) return [];
    return [{
      type: "custom", id: `band ${series.name}`, name: series.name, silent: true, clip: true, z: 1, tooltip: { show: false },
      encode: { x: 0, y: [1, 2] }, data: pieces.flat().map((point) => [point.x, point.lo, point.hi]),
      renderItem: (params, api) => params.dataIndexInside !== 0 ? undefined : { type: "group",
        children: pieces.filter((piece) => piece.length > 1).map((piece) => ({ type: "polygon",
          shape: { points: [...piece.map((point) => api.coord([point.x, point.hi])), ...piece.toReversed().map((point) => api.coord([point.x, point.lo]))] },
          style: { fill, opacity: 0.15 } })) },
    }];
  };
  // Dashed lines from `from` to `to`, across the direction in which values grow.
  const references = (panel, from, to) => panel.references.map(([name, value], index) => ({
    type: "line", id: `reference ${name}`, name, silent: true, symbol: "none", z: 2, color: css("--soft"), tooltip: { show: false },
    lineStyle: { color: css("--soft"), type: ["dashed", "dotted", "solid"][index % 3], width: 1.2 },
    data: [from, to].map((place) => (panel.kind === "bars" ? [value, place] : [place, value])) }));

  // Points that nothing joins: a curve without its line, of a kind that the library is built with.
  const dots = (name, fill, symbolSize) => ({ type: "line", name, color: fill, symbol: "circle", symbolSize, showSymbol: true, z: 3,
    lineStyle: { width: 0, opacity: 0 }, emphasis: { disabled: true } });

  const linesOption = (panel) => {
    const names = [...panel.series.map((series) => series.name), ...panel.references.map(([name]) => name)];
    const series = panel.series.flatMap((own, index) => {
      const fill = color(index);
      const data = own.points.map((point) => ({ value: [point.x, isNumber(point.y) ? point.y : "-"], point }));
      if (!own.line) return [{ ...dots(own.name, fill, 8), id: `points ${own.name}`, data, itemStyle: { color: fill, opacity: 0.8 } }];
      return [{ type: "line", id: `line ${own.name}`, name: own.name, data, color: fill, lineStyle: { width: 1.9, color: fill }, symbol: "circle",
        symbolSize: 5, showSymbol: own.points.length < 15, emphasis: { disabled: true }, z: 3 }, ...band(own, fill)];
    });
    const places = pointsOf(panel).map((point) => point.x);
    const isScatter = panel.series.every((own) => !own.line);
    const span = places.length ? Math.max(...places) - Math.min(...places) || 1 : 1;
    const around = isScatter ? 0.04 * span : 0;
    const end = ends(valuesOf(panel), panel.log);
    const bound = (value) => Number(value.toPrecision(6));
    return {
      animation: false, backgroundColor: "transparent", textStyle, legend: legend(names),
      grid: { left: 22, right: 14, top: names.length > 1 ? 34 : 12, bottom: 22, containLabel: true },
      xAxis: { ...axis(), type: "value", name: panel.x, nameLocation: "middle", nameGap: 24, splitLine: { show: false },
        min: places.length ? bound(Math.min(...places) - around) : 0, max: places.length ? bound(Math.max(...places) + around) : 1,
        axisLine: { show: true, onZero: false, lineStyle: { color: css("--axis") } }, axisLabel: { ...axisText(), formatter: tick, showMaxLabel: !isScatter, showMinLabel: !isScatter } },
      yAxis: { ...axis(), type: panel.log ? "log" : "value", name: panel.y, nameLocation: "middle", nameGap: 42, scale: true, splitNumber: 4,
        min: end.min, max: end.max, axisLabel: { ...axisText(), ...end.labels, formatter: tick } },
      tooltip: { ...tooltipStyle(), trigger: isScatter ? "item" : "axis", axisPointer: { lineStyle: { color: css("--axis"), type: "solid" } },
        formatter: (items) => {
          const list = [items].flat().filter((item) => item.data && item.data.point);
          if (!list.length) return "";
          const made = tip(`${panel.x}: ${number(list[0].data.point.x)}`);
          for (const item of list) tipLine(made, item.color, item.seriesName, item.data.point);
          return made;
        } },
      series: [...series, ...references(panel, Math.min(...places), Math.max(...places))],
    };
  };

  // Names down the side, for each group a dot with its interval.
  const barsOption = (panel) => {
    const groups = panel.groups.map(([name]) => name);
    const names = [...groups, ...panel.references.map(([name]) => name)];
    const end = ends(valuesOf(panel), false);
    const step = 0.7 / Math.max(1, groups.length);
    const series = panel.groups.map(([name, points], group) => ({
      type: "custom", id: `points ${name}`, name, clip: true, z: 3, itemStyle: { color: color(group) },
      data: points.flatMap((point, index) => (isNumber(point.y) ? [{ value: [point.y, index, point.lo ?? point.y, point.hi ?? point.y], point }] : [])),
      encode: { x: [0, 2, 3], y: 1 },
      renderItem: (params, api) => {
        const shift = api.size([0, 1])[1] * step * (group - (groups.length - 1) / 2);
        const at = (value) => { const [x, y] = api.coord([value, api.value(1)]); return [x, y + shift]; };
        const [dot, from, to] = [at(api.value(0)), at(api.value(2)), at(api.value(3))];
        const fill = color(group);
        return { type: "group", children: [
          { type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }, style: { stroke: fill, lineWidth: 2, opacity: 0.55 } },
          { type: "circle", shape: { cx: dot[0], cy: dot[1], r: 4.5 }, style: { fill } } ] };
      },
    }));
    return {
      animation: false, backgroundColor: "transparent", textStyle, legend: legend(names),
      grid: { left: 6, right: 18, top: names.length > 1 ? 34 : 16, bottom: 22, containLabel: true },
      xAxis: { ...axis(), type: "value", name: panel.y, nameLocation: "middle", nameGap: 24, min: end.min, max: end.max, splitNumber: 4,
        axisLabel: { ...axisText(), ...end.labels, formatter: tick } },
      yAxis: { ...axis(), type: "category", inverse: true, data: panel.names, splitLine: { show: false },
        axisLabel: { ...axisText(), interval: 0, width: 170, overflow: "break", lineHeight: 13 } },
      tooltip: { ...tooltipStyle(), trigger: "item", formatter: (item) => {
        if (!item.data || !item.data.point) return "";
        const made = tip(panel.names[item.data.value[1]]);
        tipLine(made, item.color, item.seriesName, item.data.point);
        return made;
      } },
      series: [...series, ...references(panel, 0, panel.names.length - 1)],
    };
  };

  const sequential = ["#f2f5f9", "#bcd4e8", "#6fa8d3", "#2f78b4", "#0b3d75"];
  const diverging = ["#b35806", "#f1a340", "#fbe5cb", "#f5f5f5", "#d3e3f0", "#5a9fd0", "#0a4a86"];
  const heatOption = (panel) => {
    const { scale } = panel;
    const [min, max] = scale.kind === "diverging" ? [-scale.limit, scale.limit] : [scale.min, scale.max];
    const data = panel.cells.flatMap((row, y) => row.flatMap((cell, x) => (isNumber(cell.value) || cell.text
      ? [{ value: [x, y, isNumber(cell.value) ? cell.value : "-"], cell }] : [])));
    const hasText = data.some(({ cell }) => cell.text);
    const dark = (value) => isNumber(value) && (scale.kind === "diverging" ? Math.abs(value) > 0.72 * max : value - min > 0.55 * (max - min));
    for (const item of data) {
      item.label = { show: hasText, formatter: () => item.cell.text, fontSize: panel.columns.length > 20 ? 8 : 10, overflow: "truncate",
        color: dark(item.cell.value) ? "#ffffff" : "#16191d" };
    }
    const rowsWidth = 14 + Math.min(150, 5.6 * Math.max(0, ...panel.rows.map((name) => name.length)));
    const longest = Math.max(0, ...panel.columns.map((name) => name.length));
    const slanted = panel.columns.length > 8 && longest > 6;
    const labels = slanted ? 14 + 0.87 * Math.min(110, 6 * longest) : 18;
    return {
      animation: false, backgroundColor: "transparent", textStyle,
      grid: { left: panel.y ? 24 : 6, right: 12, top: 8, bottom: panel.x ? 58 : 40, containLabel: true },
      xAxis: { ...axis(), type: "category", data: panel.columns, name: panel.x, nameLocation: "middle", nameGap: labels + 4, splitLine: { show: false },
        axisLabel: { ...axisText(), interval: slanted ? 0 : "auto", rotate: slanted ? 60 : 0, width: slanted ? 110 : 90, overflow: "truncate" } },
      yAxis: { ...axis(), type: "category", inverse: true, data: panel.rows, name: panel.y, nameLocation: "middle", nameGap: rowsWidth, splitLine: { show: false },
        axisLabel: { ...axisText(), interval: panel.rows.length > 60 ? "auto" : 0, width: 150, overflow: "truncate" } },
      visualMap: { type: "continuous", min, max, calculable: false, orient: "horizontal", left: "center", bottom: 2, itemWidth: 10, itemHeight: 160,
        text: [number(max), number(min)], textStyle: axisText(), inRange: { color: scale.kind === "diverging" ? diverging : sequential } },
      tooltip: { ...tooltipStyle(), formatter: ({ data: item }) => {
        const made = tip(`${panel.rows[item.value[1]]} · ${panel.columns[item.value[0]]}`);
        element("div", item.cell.hint || number(item.cell.value), made);
        return made;
      } },
      series: [{ type: "heatmap", id: "heatmap", data, itemStyle: { borderColor: css("--paper"), borderWidth: 1 },
        emphasis: { itemStyle: { borderColor: css("--ink") } } }],
    };
  };

  // Places with a cross of their intervals and small points that they are the means of; the front bounds what some place beats.
  const planeOption = (panel) => {
    const names = panel.marks.map((mark) => mark.name);
    const around = (key, index) => {
      const values = panel.marks.flatMap((mark) => [mark[key].lo, mark[key].hi, ...mark.parts.map((part) => part[index])]);
      const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
      const margin = 0.08 * (high - low || 1);
      return { min: Number((low - margin).toPrecision(6)), max: Number((high + margin).toPrecision(6)) };
    };
    const [x, y] = [around("x", 0), around("y", 1)];
    const place = (mark) => [mark.x.value, mark.y.value];
    const front = panel.front.map((index) => place(panel.marks[index]));
    const steps = front.flatMap((own, index) => (index + 1 < front.length ? [own, [own[0], front[index + 1][1]]] : [own]));
    const first = front.length ? [[x.min, front[0][1]]] : [];
    const last = front.length ? [[front.at(-1)[0], y.max]] : [];
    const cross = (mark, index) => ({
      type: "custom", id: `cross ${mark.name}`, name: mark.name, silent: true, clip: true, z: 2, tooltip: { show: false },
      itemStyle: { color: color(index) }, data: [[mark.x.value, mark.y.value]],
      renderItem: (params, api) => {
        const line = (from, to) => {
          const [[x1, y1], [x2, y2]] = [api.coord(from), api.coord(to)];
          return { type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: color(index), lineWidth: 2, opacity: 0.55 } };
        };
        return { type: "group", children: [
          line([mark.x.lo, mark.y.value], [mark.x.hi, mark.y.value]), line([mark.x.value, mark.y.lo], [mark.x.value, mark.y.hi])] };
      },
    });
    const parts = (mark, index) => ({ ...dots(mark.name, color(index), 5), id: `parts ${mark.name}`, silent: true, tooltip: { show: false },
      itemStyle: { opacity: 0.5 }, data: mark.parts.length > 1 ? mark.parts : [] });
    // Names of marks that all but coincide stand above one another.
    const near = (a, b) => Math.abs(a.x.value - b.x.value) < 0.05 * (x.max - x.min) && Math.abs(a.y.value - b.y.value) < 0.05 * (y.max - y.min);
    const above = (mark, index) => panel.marks.slice(0, index).filter((other) => near(other, mark)).length;
    const dot = (mark, index) => ({ ...dots(mark.name, color(index), 11), id: `mark ${mark.name}`, z: 4, data: [{ value: place(mark), mark }],
      label: { show: true, position: [14, -14 - 14 * above(mark, index)], formatter: mark.name, color: css("--ink"), fontSize: 12 } });
    const zero = (id, data) => ({ type: "line", id, name: panel.origin, silent: true, symbol: "none", z: 1, color: css("--soft"), tooltip: { show: false },
      lineStyle: { color: css("--axis"), width: 1 }, data });
    const valueAxis = (name, { min, max }, gap) => ({ ...axis(), type: "value", name, nameLocation: "middle", nameGap: gap, min, max,
      axisLabel: { ...axisText(), formatter: tick, showMinLabel: false, showMaxLabel: false } });
    return {
      animation: false, backgroundColor: "transparent", textStyle, legend: legend([...names, "Pareto front", panel.origin]),
      grid: { left: 40, right: 70, top: 34, bottom: 22, containLabel: true },
      xAxis: valueAxis(panel.x, x, 24), yAxis: valueAxis(panel.y, y, 46),
      tooltip: { ...tooltipStyle(), trigger: "item", formatter: (item) => {
        const mark = item.data && item.data.mark;
        if (!mark) return "";
        const made = tip(mark.name);
        const point = (own, label) => ({ y: own.value, lo: own.lo, hi: own.hi, label });
        tipLine(made, item.color, panel.x, point(mark.x, ""));
        tipLine(made, item.color, panel.y, point(mark.y, mark.label));
        return made;
      } },
      series: [
        zero("origin across", [[x.min, 0], [x.max, 0]]), zero("origin up", [[0, y.min], [0, y.max]]),
        { type: "line", id: "front", name: "Pareto front", silent: true, symbol: "none", z: 2, color: css("--soft"), tooltip: { show: false },
          lineStyle: { color: css("--soft"), type: "dashed", width: 1.4 }, data: [...first, ...steps, ...last] },
        ...panel.marks.map(cross), ...panel.marks.map(parts), ...panel.marks.map(dot),
        { ...dots(panel.origin, css("--soft"), 10), id: "origin", symbol: "diamond", silent: true, tooltip: { show: false }, data: [[0, 0]] },
      ],
    };
  };

  const makers = { lines: linesOption, bars: barsOption, heat: heatOption, plane: planeOption };
  const shown = (chart) => (chart.select ? chart.panel.options[Number(chart.select.value)][1] : chart.panel);
  const draw = (chart) => {
    const panel = shown(chart);
    for (const table of chart.card.querySelectorAll("[data-option]")) table.hidden = table.dataset.option !== chart.select.value;
    if (!chart.view) return;
    const make = makers[panel.kind];
    chart.place.hidden = !make;
    if (!make) return;
    const option = make(panel);
    chart.view.setOption(option, { notMerge: true });
    chart.card.dataset.lines = option.series.length;
  };
  const picture = (chart, format) => {
    const panel = shown(chart);
    if (!makers[panel.kind]) return;
    root.classList.add("printing");
    const option = makers[panel.kind](panel);
    root.classList.remove("printing");
    const title = chart.card.querySelector("h3").textContent;
    option.backgroundColor = "#ffffff";
    option.title = { text: title, left: 12, top: 10, textStyle: { fontSize: 16, color: "#16191d" } };
    option.grid.top += 44;
    if (option.legend) option.legend.top = 40;
    save(option, title, format);
  };

  for (const card of document.querySelectorAll("[data-panel]")) {
    const place = card.querySelector(".chart");
    const chart = { card, place, panel: panels[Number(card.dataset.panel)], select: card.querySelector("[data-choice]"),
      view: place ? echarts.init(place, null, { renderer: "svg" }) : null };
    charts.push(chart);
    if (chart.select) chart.select.addEventListener("change", () => draw(chart));
    for (const button of card.querySelectorAll("[data-export]")) button.addEventListener("click", () => picture(chart, button.dataset.export));
    if (place) new ResizeObserver(() => { if (!root.classList.contains("printing")) chart.view.resize(); }).observe(place);
  }
  const drawAll = () => charts.forEach(draw);
  drawAll();
  root.dataset.midblockCharts = charts.length + Number(root.dataset.midblockCharts || 0);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { root.classList.add("printing"); drawAll(); });
  addEventListener("afterprint", () => { root.classList.remove("printing"); drawAll(); });
})();
