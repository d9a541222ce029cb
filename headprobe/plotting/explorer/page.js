"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const app = document.getElementById("app");
  const scores = data.scores;
  const views = data.views || null;
  const buffer = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer;
  const values = new Float32Array(buffer(scores.values));
  const [nLayers, nHeads] = [scores.layers.length, scores.heads.length];
  const [nMetrics, nPrompts, nCells] = [scores.metrics.length, scores.prompts.length, nLayers * nHeads];
  const named = (names) => names.length > 1 || names[0] !== "";

  // Texts are set as text, never as HTML, whatever a video is called.
  function make(tag, attributes = {}, ...children) {
    const element = tag.startsWith("svg:")
      ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  const digits = (x) => {
    if (!Number.isFinite(x)) return "\u2013";
    const size = Math.abs(x);
    if (size !== 0 && (size < 0.001 || size >= 100000)) return x.toExponential(2);
    return size >= 1000 ? x.toFixed(0) : Number(x.toPrecision(3)).toFixed(Math.max(0, 2 - Math.floor(Math.log10(size || 1))));
  };
  const label = (cell) => `L${scores.layers[Math.floor(cell / nHeads)]}H${scores.heads[cell % nHeads]}`;
  const at = (metric, prompt, cell) => values[(metric * nPrompts + prompt) * nCells + cell];
  const mean = (numbers) => {
    const found = numbers.filter(Number.isFinite);
    return found.length ? found.reduce((a, b) => a + b, 0) / found.length : NaN;
  };
  const spread = (numbers) => {
    const found = numbers.filter(Number.isFinite);
    const middle = mean(found);
    return found.length ? Math.sqrt(mean(found.map((x) => (x - middle) ** 2))) : NaN;
  };
  const prompts = [...Array(nPrompts).keys()];

  // What is shown: a metric, a prompt (-1: the mean over prompts), and the head that was chosen.
  const state = { metric: 0, prompt: nPrompts > 1 ? -1 : 0, chosen: -1, focus: -1, example: -1 };
  const shownAt = (cell) => state.prompt >= 0
    ? at(state.metric, state.prompt, cell) : mean(prompts.map((prompt) => at(state.metric, prompt, cell)));
  let map = [], best = [];

  // The cells. A layer ends at its last head with a score; before it, a head without one is crossed out.
  const ends = [...Array(nLayers).keys()].map((row) => {
    for (let column = nHeads - 1; column >= 0; column -= 1) {
      for (let i = 0; i < nMetrics * nPrompts; i += 1) {
        if (Number.isFinite(values[i * nCells + row * nHeads + column])) return column + 1;
      }
    }
    return 0;
  });
  const isCell = (row, column) => row >= 0 && row < nLayers && column >= 0 && column < ends[row];
  const marked = new Set(scores.marked.map(([row, column]) => row * nHeads + column));
  const cells = new Map();
  const table = make("table", { role: "grid", class: "grid", "aria-label": "Scores by layer and head" });

  function buildGrid() {
    const body = make("tbody");
    for (let row = nLayers - 1; row >= 0; row -= 1) {
      const number = scores.layers[row];
      const line = make("tr", {}, make("th", { scope: "row" }, make("span", { "data-row": row }, String(number))));
      for (let column = 0; column < nHeads; column += 1) {
        if (!isCell(row, column)) {
          line.append(make("td", { class: "absent" }));
          continue;
        }
        const cell = row * nHeads + column;
        const element = make("td", { tabindex: "-1", "aria-selected": "false", "data-cell": cell });
        if (marked.has(cell)) element.classList.add("marked");
        cells.set(cell, element);
        line.append(element);
      }
      body.append(line);
    }
    const foot = make("tr", {}, make("td", { class: "absent" }));
    scores.heads.forEach((number, column) => {
      foot.append(make("th", { scope: "col" }, make("span", { "data-column": column }, String(number))));
    });
    table.append(body, make("tfoot", {}, foot));
  }

  function sizeCells() {
    const wide = window.innerWidth >= 864;
    const room = (wide ? window.innerWidth * 0.55 - 40 : window.innerWidth - 48) - 40;
    const smallest = wide ? 9 : 14;
    const size = Math.min(110, Math.max(smallest, Math.floor(room / nHeads), 5));
    const tall = Math.max(Math.min(size, Math.floor((window.innerHeight - 330) / nLayers)), smallest);
    document.documentElement.style.setProperty("--cell", `${size}px`);
    document.documentElement.style.setProperty("--tall", `${tall}px`);
    table.classList.toggle("numbered", size >= 44 && tall >= 22);
    // As many numbers at the edges as have room; the others are there for screen readers.
    const every = (side, pixels) => [1, 2, 5, 10, 20].find((n) => n * side >= pixels) || 20;
    for (const span of table.querySelectorAll("th span")) {
      const quiet = span.dataset.row === undefined ? span.dataset.column % every(size, 20) : span.dataset.row % every(tall, 13);
      span.classList.toggle("hidden", quiet !== 0);
    }
  }

  const low = make("span"), high = make("span"), ramp = make("span", { class: "ramp", "aria-hidden": "true" });
  const mapName = make("span");
  const topList = make("ul", { class: "top" }), known = make("datalist", { id: "known" });

  function paint() {
    map = [...Array(nCells).keys()].map(shownAt);
    // One scale for all prompts of a metric, so that the same colour is the same score.
    let [least, most] = [Infinity, -Infinity];
    for (let i = state.metric * nPrompts * nCells; i < (state.metric + 1) * nPrompts * nCells; i += 1) {
      if (values[i] < least) least = values[i];
      if (values[i] > most) most = values[i];
    }
    if (scores.center !== null) {
      const reach = Math.max(most - scores.center, scores.center - least) || 1;
      [least, most] = [scores.center - reach, scores.center + reach];
    }
    const last = scores.colours.length - 1;
    for (const [cell, element] of cells) {
      const score = map[cell];
      const there = Number.isFinite(score);
      element.classList.toggle("none", !there);
      element.replaceChildren(there ? make("span", { class: "digits", "aria-hidden": "true" }, digits(score)) : "\u00d7");
      const share = most > least ? (score - least) / (most - least) : 0.5;
      const colour = there ? scores.colours[Math.round(share * last)] : "";
      element.style.backgroundColor = colour;
      element.style.color = [0.299, 0.587, 0.114].reduce((sum, part, i) => sum + part * parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16), 0) > 115 ? "#1f1f1f" : "#fff";
      element.setAttribute("aria-label", `${label(cell)}: ${there ? digits(score) : "no score"}${marked.has(cell) ? ", marked" : ""}`);
    }
    const parts = [nMetrics > 1 ? scores.metrics[state.metric] : scores.name];
    if (nPrompts > 1) parts.push(state.prompt < 0 ? `mean over ${nPrompts} prompts` : `prompt ${scores.prompts[state.prompt]}`);
    mapName.textContent = parts.join(", ");
    [low.textContent, high.textContent] = [digits(least), digits(most)];
    ramp.style.background = `linear-gradient(to right, ${scores.colours.join(",")})`;
    best = [...cells.keys()].filter((cell) => Number.isFinite(map[cell])).sort((a, b) => map[b] - map[a] || a - b);
    known.replaceChildren(...best.slice(0, 200).map((cell) => make("option", { value: label(cell) })));
    topList.replaceChildren(...best.slice(0, 10).map((cell) => make("li", {},
      make("button", { type: "button", onclick: () => choose(cell, true) }, label(cell)))));
  }

  // The scores of the head under the pointer, of the focused one, or else of the chosen one.
  const scoreTitle = make("h2"), scoreTable = make("div", { class: "scroll" }), scoreNote = make("p", { class: "quiet" });
  function showScores(cell) {
    if (cell < 0) {
      scoreTitle.textContent = "Scores";
      scoreNote.textContent = "Point at a cell, or reach it with the arrow keys; click, or press Enter, for its examples.";
      scoreTable.replaceChildren();
      return;
    }
    const finite = map.filter(Number.isFinite);
    scoreTitle.textContent = `${label(cell)}: scores`;
    scoreNote.textContent = Number.isFinite(map[cell])
      ? `Rank ${1 + finite.filter((score) => score > map[cell]).length} of ${finite.length} heads on the map shown${marked.has(cell) ? "; marked" : ""}.`
      : "No score on the map shown.";
    const head = make("tr", {}, make("th", { scope: "col" }, named(scores.prompts) ? "prompt" : "score"));
    const columns = named(scores.metrics) ? scores.metrics : [scores.name];
    columns.forEach((name) => head.append(make("th", { scope: "col" }, name)));
    const line = (name, number, kind = "") => {
      const row = make("tr", { class: kind }, make("th", { scope: "row" }, name));
      columns.forEach((_, metric) => row.append(make("td", {}, digits(number(metric)))));
      return row;
    };
    const body = make("tbody", {}, ...prompts.map((prompt) => line(scores.prompts[prompt] || label(cell), (metric) => at(metric, prompt, cell))));
    if (nPrompts > 1) {
      const over = (metric) => prompts.map((prompt) => at(metric, prompt, cell));
      body.append(line("mean", (metric) => mean(over(metric)), "sum"), line("SD over prompts", (metric) => spread(over(metric))));
    }
    scoreTable.replaceChildren(make("table", { class: "numbers" }, make("caption", { class: "hidden" }, `Scores of ${label(cell)}`), make("thead", {}, head), body));
  }

  // The classes: no two share colour and shape.
  const shapes = ["M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M0,-5L5,0L0,5L-5,0Z", "M-4,-4H4V4H-4Z", "M0,-5L4.6,4H-4.6Z", "M0,5L4.6,-4H-4.6Z",
    "M-1.3,-5H1.3V-1.3H5V1.3H1.3V5H-1.3V1.3H-5V-1.3H-1.3Z"];
  const inks = ["#2F86C1", "#D55E00", "#009E73", "#B56A94", "#B8860B", "#808080"];
  const found = [...new Set(data.examples.map((one) => one.label).filter((one) => one !== undefined))].sort((a, b) => a - b);
  const style = (one) => {
    const place = one.label === undefined ? 5 : found.indexOf(one.label);
    return [shapes[place % 6], inks[place % 6]];
  };
  const className = (one) => (one === undefined ? "no label" : (data.classes || {})[one] || `label ${one}`);
  const span = (one) => (one.start === undefined ? "" : `, frames ${one.start} to ${one.end - 1}`);
  const described = (one) => `${className(one.label)} \u00b7 ${one.id}${one.group && !one.id.includes(one.group) ? ` (${one.group})` : ""}${span(one)}`;
  // Clips play on canvases; a head's attention leaves bright what it looks at.
  const looks = data.attention || { maps: {}, tokens: {}, grids: {} };
  const play = { playing: !window.matchMedia("(prefers-reduced-motion: reduce)").matches, tick: 0, lit: true };
  let players = [];
  function player(one, look, grid) {
    const canvas = make("canvas", { role: "img", "aria-label": `Frames of ${one.id}${look ? ", bright where the head looks" : ""}` });
    const image = new Image(), weights = look && new Uint8Array(buffer(look[2]));
    const draw = () => {
      if (!canvas.width || !image.naturalWidth) return;
      const frame = play.tick % one.at.length, width = image.naturalWidth / one.at.length;
      const pen = canvas.getContext("2d");
      pen.drawImage(image, frame * width, 0, width, image.naturalHeight, 0, 0, canvas.width, canvas.height);
      if (!look || !play.lit) return;
      const [, rows, columns, perStep] = grid, first = Math.floor(one.at[frame] / perStep) * rows * columns;
      for (let i = 0; i < rows * columns; i += 1) {
        pen.fillStyle = `rgba(0, 0, 0, ${0.65 * (1 - weights[first + i] / 255)})`;
        const [x, y] = [i % columns, Math.floor(i / columns)];
        const edge = (step, steps, room) => Math.round((step * room) / steps);
        const [left, top] = [edge(x, columns, canvas.width), edge(y, rows, canvas.height)];
        pen.fillRect(left, top, edge(x + 1, columns, canvas.width) - left, edge(y + 1, rows, canvas.height) - top);
      }
    };
    image.addEventListener("load", () => {
      canvas.height = 320;
      canvas.width = Math.round((320 * image.naturalWidth) / one.at.length / image.naturalHeight);
      draw();
    });
    image.src = one.image;
    players.push({ canvas, draw });
    return canvas;
  }
  const drawAll = () => {
    players = players.filter((one) => one.canvas.isConnected);
    players.forEach((one) => one.draw());
  };
  setInterval(() => { if (play.playing) { play.tick += 1; drawAll(); } }, 300);

  const shade = (weight) => `rgba(255, 150, 0, ${weight / 255})`;
  function content(one, i) {
    const key = `${views.prompts[Math.max(0, views.prompts.indexOf(scores.prompts[state.prompt]))]}/${i}`;
    const look = looks.maps[`${state.chosen}/${key}`], words = looks.tokens[key];
    if (one.image) {
      const share = look ? make("span", { class: "quiet" }, `${(100 * look[1]).toFixed(0)} % of its attention is on the frames`) : null;
      return make("span", {}, player(one, look, looks.grids[key]), share);
    }
    if (look && words) {
      const weights = new Uint8Array(buffer(look[2]));
      return make("span", { class: "tokens" }, ...words.map((word, j) => make("span", {
        style: play.lit ? `background:${shade(weights[j])}` : null, title: `${(100 * look[0] * (weights[j] / 255) ** 2).toFixed(1)} %` },
      j && !words.some((other) => /^\s/.test(other)) ? ` ${word}` : word)));
    }
    return one.text ? make("span", { class: "quiet words" }, one.text) : null;
  }

  const arrays = views && {
    heads: new Map(Array.from(new Int32Array(buffer(views.heads)), (cell, i) => [cell, i])),
    points: new Uint8Array(buffer(views.points)), shares: new Float32Array(buffer(views.shares)),
    silhouette: new Float32Array(buffer(views.silhouette)), index: new Int16Array(buffer(views.index)),
    strength: new Float32Array(buffer(views.strength)),
    strengths: new Uint8Array(buffer(views.strengths)), range: new Float32Array(buffer(views.range)),
  };
  const headTitle = make("h2"), headNote = make("p", { class: "quiet" }), plotBox = make("div"), sides = make("div", { class: "sides" });
  const shown = make("div", { class: "shown" });
  let dots = [];

  function pick(example, from) {
    state.example = example;
    dots.forEach((dot, i) => { dot.style.stroke = i === example ? "var(--pick)" : "var(--back)"; });
    dots.forEach((dot, i) => dot && dot.setAttribute("stroke-width", i === example ? "3" : "0.6"));
    if (dots[example]) dots[example].parentNode.append(dots[example]);
    for (const button of sides.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.example) === example));
    const one = data.examples[example];
    shown.replaceChildren(...[described(one), from === "list" ? null : content(one, example)].filter(Boolean));
  }

  function showHead(cell) {
    const entry = arrays ? arrays.heads.get(cell) : undefined;
    headTitle.textContent = cell < 0 ? "Examples" : `${label(cell)}: examples`;
    shown.replaceChildren();
    if (entry === undefined) {
      headNote.textContent = cell < 0 ? "Choose a head: click a cell, or press Enter on it." : "The page holds no outputs of this head.";
      plotBox.replaceChildren();
      sides.replaceChildren();
      return;
    }
    const name = scores.prompts[state.prompt];
    const under = Math.max(0, views.prompts.indexOf(name));
    const view = under * arrays.heads.size + entry;
    const n = data.examples.length;
    const apart = arrays.silhouette[view];
    const prompt = views.prompts.length > 1 || views.prompts[0] !== "none" ? `Under the prompt ${views.prompts[under]}. ` : "";
    headNote.textContent = `${prompt}First two principal components of the head's standardised outputs for ${n} examples`
      + (Number.isFinite(apart) ? `; silhouette of the classes ${apart.toFixed(2)} in all dimensions (1: apart, 0: mixed).` : ".");
    const size = 320, pad = 26, room = size - pad - 8;
    const svg = make("svg:svg", { class: "plot", viewBox: `0 0 ${size} ${size}`, role: "img",
      "aria-label": `Projection of ${n} examples by ${label(cell)}; the strongest are listed below.` });
    svg.append(make("svg:rect", { x: pad, y: 4, width: room, height: room, fill: "none", stroke: "#b5b5b5" }));
    const share = (i) => `PC ${i + 1} (${(100 * arrays.shares[2 * view + i]).toFixed(0)} % of variance)`;
    svg.append(make("svg:text", { x: pad + room / 2, y: size - 8, "text-anchor": "middle" }, share(0)));
    svg.append(make("svg:text", { transform: `translate(16 ${4 + room / 2}) rotate(-90)`, "text-anchor": "middle" }, share(1)));
    dots = data.examples.map((one, i) => {
      const x = pad + 6 + (arrays.points[2 * (view * n + i)] / 255) * (room - 12);
      const y = 4 + 6 + (1 - arrays.points[2 * (view * n + i) + 1] / 255) * (room - 12);
      const [shape, colour] = style(one);
      const dot = make("svg:path", { d: shape, transform: `translate(${x} ${y})`, fill: colour, "fill-opacity": "0.8", stroke: "none", "stroke-width": "0.6",
        onpointerenter: () => pick(i, "plot"), onclick: () => pick(i, "plot") });
      svg.append(dot);
      return dot;
    });
    const kinds = [...found, ...(data.examples.some((one) => one.label === undefined) ? [undefined] : [])];
    const legend = make("div", { class: "legend" }, ...kinds.map((one) => {
      const [shape, colour] = style({ label: one });
      return make("span", {}, make("svg:svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }, make("svg:path", { d: shape, fill: colour })), ` ${className(one)}`);
    }));
    const k = views.strongest;
    const yes = data.positive === null || data.positive === undefined ? null : className(data.positive);
    plotBox.replaceChildren(make("div", { class: "pictures" }, distribution(view, n, kinds, yes), svg), legend);
    const titles = yes === null ? ["Highest on PC 1", "Lowest on PC 1"] : [`Most like ${yes}`, `Least like ${yes}`];
    sides.replaceChildren(...titles.map((title, side) => {
      const list = make("ol");
      for (let i = 0; i < k; i += 1) {
        const place = (view * 2 + side) * k + i;
        const example = arrays.index[place];
        if (example < 0) continue;
        const one = data.examples[example];
        list.append(make("li", {}, make("button", { type: "button", "aria-pressed": "false", "data-example": example, onclick: () => pick(example, "list") },
          described(one), make("span", { class: "quiet" }, ` \u00b7 ${arrays.strength[place].toFixed(2)}`), content(one, example))));
      }
      return make("section", {}, make("h3", {}, title), list.children.length ? list : make("p", { class: "quiet" }, "None can be judged: a class is in one group only."));
    }));
    const what = yes === null ? "Number: the first principal component."
      : `Number: signed distance to the plane midway between the mean of ${yes} and that of the others, means of ${data.grouped ? "other groups" : "other examples"} only; above 0, nearer to ${yes}.`;
    sides.append(make("p", { class: "quiet" }, what));
  }

  // How the strengths of the examples are distributed, a row for each class.
  function distribution(view, n, kinds, yes) {
    const [least, most] = arrays.range.slice(2 * view, 2 * view + 2), bins = 20, [wide, high] = [320, 56];
    const counts = kinds.map(() => new Array(bins).fill(0));
    data.examples.forEach((one, i) => {
      const strength = arrays.strengths[view * n + i];
      if (strength < 255) counts[kinds.indexOf(one.label)][Math.min(bins - 1, Math.floor((strength / 255) * bins))] += 1;
    });
    const top = Math.max(1, ...counts.flat()), step = (wide - 16) / bins, floor = kinds.length * high;
    const svg = make("svg:svg", { class: "plot", viewBox: `0 0 ${wide} ${floor + 34}`, role: "img", "aria-label":
      `Distribution by class: ${kinds.map((one, row) => `${className(one)}, ${counts[row].reduce((a, b) => a + b, 0)} examples`).join("; ")}` });
    kinds.forEach((one, row) => {
      const base = (row + 1) * high;
      counts[row].forEach((count, i) => { if (count) svg.append(make("svg:rect", { x: 8 + i * step, y: base - (count / top) * (high - 18), width: step - 1, height: (count / top) * (high - 18), fill: style({ label: one })[1] })); });
      svg.append(make("svg:path", { d: `M8,${base}H${wide - 8}`, stroke: "#808080" }), make("svg:text", { x: 8, y: base - high + 13 }, className(one)));
    });
    if (yes !== null && least < 0 && most > 0) svg.append(make("svg:path", { d: `M${8 + (-least / (most - least)) * (wide - 16)},4V${floor}`, stroke: "#808080", "stroke-dasharray": "4 3" }));
    [[least, 8, "start"], [most, wide - 8, "end"]].forEach(([number, x, anchor]) => svg.append(make("svg:text", { x, y: floor + 14, "text-anchor": anchor }, digits(number))));
    svg.append(make("svg:text", { x: wide / 2, y: floor + 30, "text-anchor": "middle" }, yes === null ? "first principal component" : `nearer to ${yes} \u2192`));
    return svg;
  }

  function choose(cell, go, asked = true) {
    if (cells.has(state.chosen)) {
      cells.get(state.chosen).classList.remove("chosen");
      cells.get(state.chosen).setAttribute("aria-selected", "false");
    }
    state.chosen = cell;
    cells.get(cell).classList.add("chosen");
    cells.get(cell).setAttribute("aria-selected", "true");
    reach(cell, false);
    field.value = label(cell);
    showScores(cell);
    showHead(cell);
    say.textContent = `${label(cell)} chosen`;
    // A widget that shows the page listens; a page on its own has nobody to tell.
    if (asked && window.parent !== window) window.parent.postMessage({ headprobe: "chosen", head: label(cell) }, "*");
    if (go && window.innerWidth < 864) scoreTitle.scrollIntoView({ block: "nearest" });
  }

  // One cell of the grid is in the order of the Tab key; the arrow keys go on from there.
  function reach(cell, focus) {
    if (cells.has(state.focus)) cells.get(state.focus).setAttribute("tabindex", "-1");
    state.focus = cell;
    cells.get(cell).setAttribute("tabindex", "0");
    if (focus) cells.get(cell).focus();
  }

  const cellOf = (event) => {
    const element = event.target.closest("td[data-cell]");
    return element ? Number(element.dataset.cell) : -1;
  };
  table.addEventListener("pointerover", (event) => { if (cellOf(event) >= 0) showScores(cellOf(event)); });
  table.addEventListener("pointerleave", () => showScores(state.chosen));
  table.addEventListener("focusin", (event) => { if (cellOf(event) >= 0) showScores(cellOf(event)); });
  table.addEventListener("focusout", () => showScores(state.chosen));
  table.addEventListener("click", (event) => { if (cellOf(event) >= 0) choose(cellOf(event), true); });
  table.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (cell < 0) return;
    const [row, column] = [Math.floor(cell / nHeads), cell % nHeads];
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0], PageUp: [10, 0], PageDown: [-10, 0] };
    let next = null;
    if (event.key === "Enter" || event.key === " ") choose(cell, false);
    else if (event.key === "Home") next = [row, 0];
    else if (event.key === "End") next = [row, ends[row] - 1];
    else if (moves[event.key]) {
      next = [Math.min(Math.max(row + moves[event.key][0], 0), nLayers - 1), column + moves[event.key][1]];
      // Over layers without heads, and to the last head of a shorter layer.
      const turn = Math.sign(moves[event.key][0]);
      while (turn && isCell(next[0], 0) === false && next[0] + turn >= 0 && next[0] + turn < nLayers) next[0] += turn;
      if (turn) next[1] = Math.min(column, ends[next[0]] - 1);
    } else return;
    event.preventDefault();
    if (next && isCell(next[0], next[1])) reach(next[0] * nHeads + next[1], true);
  });

  const say = make("p", { class: "hidden", role: "status" });
  const field = make("input", { id: "go", type: "search", list: "known", size: "12", autocomplete: "off", spellcheck: "false" });
  const select = (id, words, names, first, onchange) => {
    const box = make("select", { id, onchange: () => { onchange(Number(box.value)); refresh(); } });
    names.forEach((name, i) => box.append(make("option", { value: i + first }, name)));
    return make("div", {}, make("label", { for: id }, words), box);
  };
  function refresh() {
    paint();
    showScores(state.chosen);
    showHead(state.chosen);
  }

  const controls = make("div", { class: "controls" });
  if (nMetrics > 1) controls.append(select("metric", "metric", scores.metrics, 0, (i) => { state.metric = i; }));
  if (nPrompts > 1) controls.append(select("prompt", "prompt", [`mean over ${nPrompts}`, ...scores.prompts], -1, (i) => { state.prompt = i; }));
  const go = make("form", { onsubmit: (event) => {
    event.preventDefault();
    const wanted = (field.value.match(/\d+/g) || []).join();
    const cell = [...cells.keys()].find((one) => label(one).match(/\d+/g).join() === wanted);
    if (cell === undefined) say.textContent = problem.textContent = `There is no head ${field.value.trim()} on this map.`;
    else { problem.textContent = ""; choose(cell, true); reach(cell, true); }
  } }, make("label", { for: "go" }, "find a head, such as ", label(0)), field, known, " ", make("button", { type: "submit" }, "Show"));
  const problem = make("p", { class: "quiet" });
  controls.append(go);
  // "/" finds a head, "n" and "p" go to the next and the one before, by their scores.
  document.addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = { n: 1, p: -1 }[event.key], at = best.indexOf(state.chosen) + next;
    if (event.key === "/") { event.preventDefault(); field.select(); } else if (next && best[at] !== undefined) choose(best[at], false);
  });
  const anyFrames = data.examples.some((one) => one.image), anyLook = Object.keys(looks.maps).length > 0;
  const playing = make("button", { type: "button", onclick: () => { play.playing = !play.playing; playing.textContent = play.playing ? "Pause" : "Play"; } }, play.playing ? "Pause" : "Play");
  const lit = make("input", { type: "checkbox", id: "lit", checked: "", onchange: () => { play.lit = lit.checked; if (anyFrames) drawAll(); else showHead(state.chosen); } });
  const how = make("div", { class: "controls" }, anyFrames ? playing : null, anyLook ? make("span", {}, lit, " ",
    make("label", { for: "lit", class: "beside" }, anyFrames ? "bright where the head looks" : "coloured by where the head looks", " (square roots of the weights)")) : null);

  buildGrid();
  sizeCells();
  // The frame of a notebook gets its width after the page has run.
  new ResizeObserver(sizeCells).observe(document.documentElement);
  paint();
  const notes = data.notes && data.notes.length ? make("ul", { class: "notes" }, ...data.notes.map((note) => make("li", {}, note))) : null;
  const key = marked.size ? make("p", { class: "quiet" }, `Outlined: ${marked.size} marked heads. `) : null;
  const left = make("section", { class: "map", "aria-label": "Map" }, controls, problem,
    make("p", { class: "axis" }, "layers upwards, heads across"), make("div", { class: "scroll" }, table),
    make("div", { class: "bar" }, low, ramp, high, mapName), key, make("h3", {}, "Highest on this map"), topList);
  const right = make("section", { "aria-label": "Head" }, scoreTitle, scoreNote, scoreTable,
    make("hr", { "aria-hidden": "true" }), headTitle, headNote, plotBox, how, shown, sides,
    make("p", { class: "quiet" }, "The examples are those that the scores came from: they illustrate a head and test nothing."), notes);
  const todo = make("p", {}, "Point at a cell for a head's scores; click it for the examples that it tells apart most. ",
    make("span", { class: "quiet" }, "Keys: arrows and Enter, ", make("kbd", {}, "/"), " find, ", make("kbd", {}, "n"), " ", make("kbd", {}, "p"), " next and previous by score."));
  app.replaceChildren(todo, make("div", { class: "layout" }, left, right), say);
  const first = [...cells.keys()].filter((cell) => Number.isFinite(map[cell])).sort((a, b) => map[b] - map[a] || a - b)[0];
  choose(first === undefined ? [...cells.keys()][0] : first, false, false);
  say.textContent = "";
  app.dataset.ready = "true";
})();
