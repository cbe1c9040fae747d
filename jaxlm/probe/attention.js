// The page of `jaxlm probe attention`: heads by layer, lines between tokens, one map.
// All data is in #data; probabilities are bytes, of their square root in 255ths.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { tokens, layers, heads, figures } = data;
  const size = tokens.length, cell = Math.max(11, Math.min(24, Math.floor(480 / size)));
  const roots = Uint8Array.from(atob(data.roots), (c) => c.charCodeAt(0));
  const start = (n, h) => (n * heads.length + h) * size * size;
  const share = (i, j) => (roots[start(at.n, at.h) + i * size + j] / 255) ** 2;
  const at = { n: data.start[0], h: data.start[1], token: null };
  const buttons = [], rows = [], columns = [], queries = [], keys = [];

  function make(parent, tag, text = "", kind = "") {
    const found = document.createElement(tag);
    found.textContent = text; // never HTML: tokens are a user's text
    if (kind) found.className = kind;
    parent.append(found);
    return found;
  }
  function colour() {
    const said = getComputedStyle(document.documentElement);
    const hex = said.getPropertyValue("--series0").trim().slice(1);
    return [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
  }
  function paint(canvas, side, alpha) {
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d"), image = pen.createImageData(side, side);
    const [red, green, blue] = colour();
    for (let k = 0; k < side * side; k++) {
      image.data.set([red, green, blue, alpha(k)], 4 * k);
    }
    pen.putImageData(image, 0, 0);
  }
  const written = (value) => (value === null ? "–" : value.toFixed(2));

  function paintHeads() {
    const name = $("figure").value, values = figures[name];
    const most = values ? Math.max(...values.flat().map((v) => v ?? 0)) || 1 : 1;
    buttons.forEach((row, n) => row.forEach((button, h) => {
      const canvas = button.firstChild, first = start(n, h);
      if (!values) paint(canvas, size, (k) => roots[first + k]);
      else paint(canvas, 1, () => (255 * (values[n][h] ?? 0)) / most);
      const value = values ? `: ${data.names[name]} ${written(values[n][h])}` : "";
      button.title = `layer ${layers[n]}, head ${heads[h]}${value}`;
      button.setAttribute("aria-label", button.title);
    }));
  }
  function showHead() {
    buttons.forEach((row, n) => row.forEach((button, h) => {
      const here = n === at.n && h === at.h;
      button.setAttribute("aria-pressed", here);
      button.tabIndex = here ? 0 : -1;
    }));
    const said = Object.entries(figures).map(
      ([name, each]) => `${data.names[name]} ${written(each[at.n][at.h])}`);
    const where = `Layer ${layers[at.n]}, head ${heads[at.h]}`;
    $("said").textContent = `${where}, over the text: ${said.join(" · ")}`;
    $("which").textContent = where;
    paint($("cells"), size, (k) => roots[start(at.n, at.h) + k]);
    showToken();
  }
  function showToken() {
    const picked = at.token;
    const some = picked === null ? tokens.keys() : [picked];
    const lines = [];
    for (const i of some) {
      for (let j = 0; j < size; j++) {
        const p = share(i, j);
        if (p < (picked === null ? 0.05 : 0.005)) continue;
        const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
        const place = { x1: 0, y1: 22 * i + 11, x2: 100, y2: 22 * j + 11 };
        place["stroke-opacity"] = p ** 0.7;
        place["stroke-width"] = picked === null ? 1.5 : 1 + 4 * p;
        Object.entries(place).forEach((pair) => line.setAttribute(...pair));
        lines.push(line);
      }
    }
    $("between").replaceChildren(...lines);
    tokens.forEach((_, j) => {
      const p = picked === null ? 0 : share(picked, j), strength = 60 * Math.sqrt(p);
      const shade = `color-mix(in srgb, var(--series0) ${strength}%, transparent)`;
      keys[j].style.background = p < 0.005 ? "" : shade;
      keys[j].lastChild.textContent = p < 0.005 ? "" : p.toFixed(2);
      queries[j].classList.toggle("picked", j === picked);
      queries[j].setAttribute("aria-pressed", j === picked);
      queries[j].tabIndex = j === (picked ?? 0) ? 0 : -1;
      rows[j].classList.toggle("picked", j === picked);
    });
  }
  function pick(token) {
    at.token = token;
    showToken();
  }
  function pickHead(n, h) {
    Object.assign(at, { n, h });
    showHead();
    buttons[n][h].focus({ preventScroll: true });
  }
  const within = (value, count) => Math.max(0, Math.min(count - 1, value));
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  // Heads: a column of layers, a row of heads.
  $("heads").style.gridTemplateColumns =
    `max-content repeat(${heads.length}, minmax(16px, 1fr))`;
  $("heads").style.maxWidth = `${Math.max(44, 520 / heads.length) * heads.length}px`;
  make($("heads"), "span", "");
  heads.forEach((name) => make($("heads"), "span", name));
  layers.forEach((layer, n) => {
    make($("heads"), "span", layer);
    buttons.push(heads.map((_, h) => {
      const button = make($("heads"), "button");
      make(button, "canvas");
      button.addEventListener("click", () => pickHead(n, h));
      return button;
    }));
  });
  $("heads").addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    pickHead(within(at.n + step[0], layers.length), within(at.h + step[1], heads.length));
  });
  $("figure").addEventListener("change", paintHeads);

  // Tokens: queries can be picked, keys cannot.
  $("between").setAttribute("viewBox", `0 0 100 ${22 * size}`);
  $("between").style.height = `${22 * size}px`;
  tokens.forEach((token, i) => {
    const query = make($("from"), "button", "", "token");
    make(query, "bdi", token);
    query.addEventListener("pointerenter", () => pick(i));
    query.addEventListener("focus", () => pick(i));
    queries.push(query);
    const key = make($("to"), "span", "", "token");
    make(key, "bdi", token);
    make(key, "small");
    keys.push(key);
    for (const [list, id, side] of [[rows, "rows", "height"], [columns, "columns", "width"]]) {
      const label = make($(id), "div");
      make(label, "bdi", token);
      label.style[side] = `${cell}px`;
      list.push(label);
    }
  });
  $("from").addEventListener("keydown", (event) => {
    const step = STEPS[event.key]?.[0];
    if (event.key === "Escape") pick(null);
    if (!step) return;
    event.preventDefault();
    queries[within((at.token ?? 0) + step, size)].focus();
  });

  // The map: rows are queries, columns are keys.
  const cells = $("cells");
  cells.style.width = cells.style.height = `${cell * size}px`;
  cells.addEventListener("pointermove", (event) => {
    const i = within(Math.floor(event.offsetY / cell), size);
    const j = within(Math.floor(event.offsetX / cell), size);
    if (i !== at.token) pick(i);
    columns.forEach((label, k) => label.classList.toggle("picked", k === j));
    $("pair").textContent = `${tokens[i]} → ${tokens[j]}: ${share(i, j).toFixed(3)}`;
  });
  const repaint = () => { paintHeads(); showHead(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  repaint();
})();
