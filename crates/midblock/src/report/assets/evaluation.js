// Lists the items of an evaluation from the JSON in #data. Everything a model or a data set said is set as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const controls = document.querySelector(".item-controls");
  const list = document.querySelector(".item-list");
  const counter = document.querySelector(".item-count");
  const PAGE = 25;
  const state = { run: 0, task: 0, show: "all", text: "", shown: PAGE };

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const select = (label, options, key, changed) => {
    const frame = make("label", "", `${label} `);
    const box = make("select");
    options.forEach(([value, text]) => {
      const option = make("option", "", text);
      option.value = value;
      box.append(option);
    });
    box.value = state[key];
    box.addEventListener("change", () => {
      state[key] = typeof state[key] === "number" ? Number(box.value) : box.value;
      state.shown = PAGE;
      changed();
    });
    frame.append(box);
    return frame;
  };
  const task = () => data.runs[state.run].tasks[Math.min(state.task, data.runs[state.run].tasks.length - 1)];
  const kinds = {
    all: () => true,
    right: (item) => item.value === 1,
    wrong: (item) => item.value !== null && item.value < 1 && !item.silent,
    silent: (item) => item.silent,
    cut: (item) => item.truncated || item.outputs.some((o) => o.finish === "length" || o.finish === "context"),
  };
  const verdict = (item) => {
    if (!task().judged) return ["", ""];
    if (item.silent) return ["no answer", "silent"];
    if (item.value === 1) return ["right", "right"];
    return item.value ? [`${Math.round(100 * item.value)} % right`, "partly"] : ["wrong", "wrong"];
  };
  const part = (name, text) => {
    const frame = make("div", "item-part");
    frame.append(make("h4", "", name), make("pre", "", text));
    return frame;
  };
  const output = (o, index, item) => {
    const nodes = [part(item.answers > 1 ? `answer ${index + 1}` : "answer", o.text || "(nothing)")];
    const facts = Object.entries(o.values).map(([name, value]) => {
      const read = o.extracted && name in o.extracted ? `read ${o.extracted[name] === null ? "nothing" : `“${o.extracted[name]}”`}, ` : "";
      return `${name}: ${read}${Number(value.toPrecision(5))}`;
    });
    if (o.nats && o.nats.length) facts.push(`nats of each choice: ${o.nats.map((n) => n.toFixed(2)).join(", ")}`);
    facts.push(`${o.tokens} tokens${o.finish ? `, ended by ${o.finish}` : ""}`);
    nodes.push(make("p", "item-facts", facts.join(" · ")));
    if (o.note) nodes.push(part("what the judge says", o.note));
    return nodes;
  };
  // What tells items apart at a glance: the longest line of the prompt, which is no mark of the chat template.
  const head = (item) => {
    const lines = item.prompt.split("\n").slice(-12);
    return lines.reduce((a, b) => (b.length > a.length ? b : a)).slice(0, 160);
  };

  const article = (item) => {
    const details = make("details", "item");
    const summary = make("summary");
    const [word, className] = verdict(item);
    if (word) summary.append(make("span", `item-verdict ${className}`, word));
    summary.append(make("code", "", item.id), make("span", "item-head", head(item)));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      details.append(part(item.truncated ? "prompt (its beginning was cut for the model)" : "prompt", item.prompt));
      if (item.gold.length) details.append(part("right answer", item.gold.join("\n")));
      item.outputs.forEach((o, index) => details.append(...output(o, index, item)));
      if (item.answers > item.outputs.length) details.append(make("p", "item-facts", `${item.answers - item.outputs.length} more answers in items.jsonl`));
    });
    return details;
  };
  const draw = () => {
    const wanted = state.text.toLowerCase();
    const has = (item) => !wanted || [item.id, item.prompt, ...item.outputs.map((o) => o.text)].some((t) => t.toLowerCase().includes(wanted));
    const items = task().items.filter((item) => kinds[state.show](item) && has(item));
    counter.textContent = `${items.length} of ${task().items.length} items`;
    list.replaceChildren(...items.slice(0, state.shown).map(article));
    if (items.length > state.shown) {
      const more = make("button", "", `Show ${Math.min(PAGE, items.length - state.shown)} more`);
      more.type = "button";
      more.addEventListener("click", () => { state.shown += PAGE; draw(); });
      list.append(more);
    }
  };
  const build = () => {
    const run = data.runs[state.run];
    const boxes = [];
    if (data.runs.length > 1) boxes.push(select("model", data.runs.map((r, i) => [i, r.name]), "run", () => { build(); }));
    if (run.tasks.length > 1) boxes.push(select("task", run.tasks.map((t, i) => [i, t.name]), "task", draw));
    boxes.push(select("show", [["all", "all"], ["right", "right"], ["wrong", "wrong"], ["silent", "without answer"], ["cut", "cut or out of length"]], "show", draw));
    const search = make("input");
    search.type = "search";
    search.placeholder = "search";
    search.setAttribute("aria-label", "search in items");
    search.value = state.text;
    search.addEventListener("input", () => { state.text = search.value; state.shown = PAGE; draw(); });
    boxes.push(search);
    controls.replaceChildren(...boxes);
    draw();
  };
  build();
})();
