// The rule explorer: four native controls choose a tile of a picture sheet. What the sheets hold is in maps/data.js,
// which scripts/explorer.py writes. The state is in the address, so that it can be shared and the back button works.
(() => {
  "use strict";

  const root = document.getElementById("explorer");
  const find = (name) => document.getElementById(`explorer-${name}`);
  const status = find("status");
  const data = window.modbpExplorer;
  if (!data) {
    status.textContent = "The data of this page could not be loaded, so there is nothing to choose.";
    return;
  }
  // Pictures lie beside the script that names them, wherever the book is.
  const folder = new URL(".", [...document.scripts].find((s) => s.src.endsWith("/data.js")).src);
  const side = data.settings.side;
  const rules = Object.values(data.families).flat();

  // ── The state and its address ────────────────────────────────────────────────────────────────────────────────────

  const slug = (name) => name.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const classSlugs = (photograph) => data.photographs[photograph].classes.map((k) => slug(data.categories[k]));

  // For each part of the state: what its address may say, which depends on the photograph, and which of them is chosen.
  const PARTS = {
    photograph: () => data.photographs.map((p) => p.id),
    rule: () => rules,
    class: (photograph) => classSlugs(photograph),
    randomized: () => data.stages.map((s) => String(s.layers)),
  };
  const DEFAULT = { photograph: 0, rule: Math.max(0, rules.indexOf("guided_backprop")), class: 0, randomized: 0 };

  function asked() {
    // A fragment without "=" is a heading's, and a query without our names is somebody else's.
    for (const text of [location.hash.slice(1), location.search.slice(1)]) {
      const found = new URLSearchParams(text.includes("=") ? text : "");
      if (Object.keys(PARTS).some((part) => found.has(part))) return found;
    }
    return new URLSearchParams();
  }

  function readAddress() {
    const found = asked();
    const state = { ...DEFAULT };
    const refused = [];
    for (const [part, allowed] of Object.entries(PARTS)) {
      if (!found.has(part)) continue;
      const index = allowed(state.photograph).indexOf(found.get(part));
      if (index < 0) refused.push(`${part} = “${found.get(part).slice(0, 40)}”`);
      else state[part] = index;
    }
    return { state, refused };
  }

  function addressOf(state) {
    const values = Object.entries(PARTS).map(([part, allowed]) => [part, allowed(state.photograph)[state[part]]]);
    return `${location.pathname}#${new URLSearchParams(values)}`;
  }

  // ── The controls ─────────────────────────────────────────────────────────────────────────────────────────────────

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function radio(name, value, ...label) {
    const input = element("input", { type: "radio", name, value: String(value), autocomplete: "off" });
    return element("label", {}, input, ...label);
  }

  function buildControls() {
    find("photographs").append(
      ...data.photographs.map((p, i) => {
        const picture = element("canvas", { width: side, height: side });
        picture.setAttribute("aria-hidden", "true"); // the name beside it says what it is
        draw(picture, p.picture, 0, 0);
        return radio("photograph", i, picture, element("span", { textContent: p.name }));
      }),
    );
    find("rule").append(
      ...Object.entries(data.families)
        .filter(([, members]) => members.length)
        .map(([family, members]) =>
          element(
            "optgroup",
            { label: family },
            ...members.map((r) => element("option", { value: String(rules.indexOf(r)), textContent: data.names[r] })),
          ),
        ),
    );
    find("classes").append(...data.photographs[0].classes.map((_, i) => radio("class", i, element("span"))));
    find("randomized").max = String(data.stages.length - 1);
  }

  const form = find("form");

  function fillControls(state) {
    for (const input of form.querySelectorAll("[name]")) {
      const value = String(state[input.name]);
      if (input.type === "radio") input.checked = input.value === value;
      else input.value = value;
    }
    const photograph = data.photographs[state.photograph];
    find("classes")
      .querySelectorAll("label span")
      .forEach((span, i) => {
        span.textContent = `${data.categories[photograph.classes[i]]} (${i ? "another one" : "predicted"})`;
      });
    const stage = data.stages[state.randomized];
    const layers = `${stage.layers} of ${data.layers}${stage.lowest ? `, down to ${stage.lowest}` : ""}`;
    find("randomized").setAttribute("aria-valuetext", layers);
    find("layers").textContent = layers;
  }

  function readControls() {
    const chosen = new FormData(form);
    return Object.fromEntries(Object.keys(PARTS).map((part) => [part, Number(chosen.get(part))]));
  }

  // ── What is shown ────────────────────────────────────────────────────────────────────────────────────────────────

  const sheets = new Map();

  function sheet(name) {
    if (!sheets.has(name)) {
      const image = new Image();
      image.src = new URL(name, folder).href;
      sheets.set(name, image.decode().then(() => image));
      sheets.get(name).catch(() => sheets.delete(name)); // it may come the next time
    }
    return sheets.get(name);
  }

  async function draw(canvas, name, column, row) {
    const wanted = `${name} ${column} ${row}`;
    canvas.dataset.wanted = wanted;
    const pen = canvas.getContext("2d");
    try {
      const image = await sheet(name);
      if (canvas.dataset.wanted !== wanted) return; // another choice was faster
      pen.drawImage(image, column * side, row * side, side, side, 0, 0, side, side);
      canvas.dataset.shown = wanted;
    } catch {
      if (canvas.dataset.wanted !== wanted) return;
      pen.clearRect(0, 0, side, side);
      canvas.dataset.shown = "";
      status.textContent = `The picture ${name} could not be loaded.`;
    }
  }

  const number = (value) => (value === null ? "undefined" : value.toFixed(2).replace("-", "−"));

  function describe(state) {
    const photograph = data.photographs[state.photograph];
    const rule = rules[state.rule];
    const stage = data.stages[state.randomized];
    const [predicted, category] = [0, state.class].map((i) => data.categories[photograph.classes[i]]);
    const top = data.categories[photograph.top[state.randomized]];
    const numbers = photograph.rules[rule];
    const network = stage.layers
      ? stage.layers === data.layers
        ? `a network with all ${data.layers} layers random`
        : `a network with ${stage.layers} of ${data.layers} layers random, from the top down to ${stage.lowest}`
      : "the trained network";
    const says = !stage.layers
      ? `It predicts ${top}.`
      : top === predicted
        ? `Its largest logit happens to be that of ${top}; what decided is random.`
        : `It no longer predicts ${predicted}: its largest logit is that of ${top}.`;
    return { photograph, rule, stage, predicted, category, top, numbers, network, says, name: data.names[rule] };
  }

  function show(state, refused = []) {
    const seen = describe(state);
    const { photograph, numbers, category, network, predicted, name } = seen;
    const value = (measure) => numbers[measure][state.randomized][state.class];
    fillControls(state);

    const pictures = {
      photograph: [photograph.picture, 0, 0, `The photograph: ${photograph.name}.`],
      reference: [numbers.sheet, 0, 0, `Reference map of ${name}: class ${predicted}, trained network.`],
      map: [numbers.sheet, state.class, state.randomized, `Map of ${name}: class ${category}, ${network}.`],
    };
    for (const [place, [file, column, row, text]] of Object.entries(pictures)) {
      const canvas = find(place);
      canvas.setAttribute("aria-label", text);
      draw(canvas, file, column, row);
    }
    find("map-caption").textContent = `${category}, ${seen.stage.layers} of ${data.layers} layers random`;
    find("reference-caption").textContent = `${predicted}, trained`;

    const same = !state.class && !state.randomized;
    const likeness =
      value("ssim") === null
        ? "A map is constant, so that its likeness to the reference map is undefined."
        : same
          ? "This is the reference map itself."
          : `Its SSIM with the reference map is ${number(value("ssim"))}, where ${number(numbers.floor)} is the floor.`;
    const wrong = refused.length
      ? `The address asks for ${refused.join(" and ")}, which this page does not have; it shows the default instead. `
      : "";
    status.textContent =
      `${wrong}${name} on the photograph of class ${photograph.name}, asked for ${category} in ${network}. ` +
      `${likeness} ${seen.says}`;

    find("value-ssim").textContent = number(value("ssim"));
    find("value-floor").textContent = number(numbers.floor);
    find("value-rank").textContent = number(value("rank"));
    find("value-logit").textContent = `${number(photograph.logits[state.randomized][state.class])} (${category})`;
    find("value-top").textContent = `${number(photograph.top_logit[state.randomized])} (${seen.top})`;
    plot(state, seen);
  }

  // ── The curve of similarities ────────────────────────────────────────────────────────────────────────────────────

  const WIDTH = 320, HEIGHT = 150, LEFT = 34, RIGHT = 8, TOP = 8, BOTTOM = 34;

  function svg(tag, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function plot(state, { photograph, numbers }) {
    const x = (layers) => LEFT + (layers / data.layers) * (WIDTH - LEFT - RIGHT);
    // Anti-correlated pictures have a negative SSIM, of which nothing is cut off.
    const lowest = Math.min(0, ...numbers.ssim.flat().filter((v) => v !== null));
    const y = (v) => TOP + ((1 - v) / (1 - lowest)) * (HEIGHT - TOP - BOTTOM);
    const across = (kind, v) => svg("line", { class: kind, x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) });
    const parts = [0, 0.5, 1].flatMap((v) => [
      across("grid", v),
      svg("text", { class: "value", x: LEFT - 5, y: y(v) + 4 }, String(v)),
    ]);
    parts.push(
      ...data.stages.map((s) => svg("text", { class: "tick", x: x(s.layers), y: HEIGHT - 18 }, String(s.layers))),
      svg("text", { class: "tick", x: (LEFT + WIDTH) / 2, y: HEIGHT - 3 }, "random layers"),
    );
    if (numbers.floor !== null) parts.push(across("floor", numbers.floor));
    photograph.classes.forEach((_, column) => {
      const points = data.stages
        .map((s, row) => [x(s.layers), numbers.ssim[row][column], row])
        .filter(([, v]) => v !== null);
      const kind = column ? "other" : "predicted";
      parts.push(svg("polyline", { class: kind, points: points.map(([at, v]) => `${at},${y(v)}`).join(" ") }));
      for (const [at, v, row] of points) {
        const shape = column
          ? svg("rect", { class: kind, x: at - 3, y: y(v) - 3, width: 6, height: 6 })
          : svg("circle", { class: kind, cx: at, cy: y(v), r: 3.5 });
        parts.push(shape);
        if (column === state.class && row === state.randomized) {
          parts.push(svg("circle", { class: "here", cx: at, cy: y(v), r: 8 }));
        }
      }
    });
    const said = photograph.classes.map(
      (k, column) => `for ${data.categories[k]} ${numbers.ssim.map((row) => number(row[column])).join(", ")}`,
    );
    const layers = data.stages.map((s) => s.layers).join(", ");
    const figure = find("curve");
    figure.setAttribute("aria-label", `SSIM with the reference map at ${layers} random layers: ${said.join("; ")}.`);
    figure.replaceChildren(...parts);
    photograph.classes.forEach((k, column) => {
      find(`key-${column}`).textContent = data.categories[k];
    });
  }

  // ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────

  const fromAddress = () => {
    const { state, refused } = readAddress();
    show(state, refused);
  };

  for (const canvas of root.querySelectorAll("canvas")) canvas.width = canvas.height = side;
  buildControls();
  for (const part of ["form", "result", "details"]) find(part).hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => show(readControls()));
  // A slider reports where it passes as "input", and where it stays as "change": only that goes into the history.
  form.addEventListener("change", () => {
    const address = addressOf(readControls());
    if (address !== location.pathname + location.hash || location.search) history.pushState(null, "", address);
  });
  window.addEventListener("popstate", fromAddress); // also where only the fragment changes
  window.addEventListener("pageshow", (event) => event.persisted && fromAddress());
  fromAddress();
  root.dataset.ready = "true";
})();
