// What every page shares: errors are noted where tests find them, words and colours, and saving a chart as a picture.
"use strict";
const page = (() => {
  const root = document.documentElement;
  const errors = [];
  const note = (text) => {
    errors.push(String(text));
    root.dataset.midblockErrors = errors.join("\n");
  };
  addEventListener("error", (event) => note(event.message));
  addEventListener("unhandledrejection", (event) => note(event.reason));
  for (const level of ["error", "warn"]) {
    const original = console[level].bind(console);
    console[level] = (...args) => { note(args.join(" ")); original(...args); };
  }
  root.classList.add("js");

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2);
    return String(Number(value.toPrecision(4)));
  };
  const tick = (value) => {
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(0).replace("e+", "e");
    return size >= 1e4 ? `${Number((value / 1e3).toPrecision(4))}k` : String(Number(value.toPrecision(6)));
  };
  const element = (tag, text, parent) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };

  const textStyle = { fontFamily: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif" };
  const axisText = () => ({ color: css("--soft"), fontSize: 11 });

  // Saves a chart's options, drawn anew, as a file.
  const save = (option, title, kind) => {
    const size = { width: 900, height: 540 };
    const link = document.createElement("a");
    link.download = `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}.${kind}`;
    if (kind === "svg") {
      const view = echarts.init(null, null, { renderer: "svg", ssr: true, ...size });
      view.setOption(option);
      link.href = URL.createObjectURL(new Blob([view.renderToSVGString()], { type: "image/svg+xml" }));
      view.dispose();
    } else {
      const view = echarts.init(document.createElement("div"), null, { renderer: "canvas", ...size });
      view.setOption(option);
      link.href = view.getDataURL({ type: "png", pixelRatio: 2 });
      view.dispose();
    }
    link.click();
  };

  return { root, css, number, tick, element, textStyle, axisText, save };
})();
