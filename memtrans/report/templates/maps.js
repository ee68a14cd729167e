// Attention maps: small multiples of all layers and heads, and one large map with its tokens.
(() => {
  const records = JSON.parse(document.getElementById("data-maps").textContent);
  const at = (id) => document.getElementById(id);
  const picks = { record: at("pick-record"), example: at("pick-example"), layer: at("pick-layer"), head: at("pick-head") };
  const colour = () => getComputedStyle(document.documentElement).getPropertyValue("--map");
  const chosen = () => records[picks.record.value].examples[picks.example.value];

  function fill(select, texts, value) {
    select.replaceChildren(...texts.map((text, i) => new Option(text, i)));
    select.value = Math.min(value || 0, texts.length - 1);
  }

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function thumbnail(weights, example, label, select) {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [example.columns.length, example.rows.length];
    canvas.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
    const context = canvas.getContext("2d");
    weights.forEach((weight, i) => {
      context.fillStyle = `rgba(${colour()}, ${Math.sqrt(weight / 1000)})`;
      context.fillRect(i % canvas.width, Math.floor(i / canvas.width), 1, 1);
    });
    button.type = "button";
    button.setAttribute("aria-label", label);
    button.title = label;
    button.append(canvas);
    button.addEventListener("click", select);
    return button;
  }

  // runs of equal kind along an axis: [kind, first, one past the last]
  function runs(kinds) {
    const found = [];
    kinds.forEach((kind, i) => {
      if (found.length && found[found.length - 1][0] === kind) found[found.length - 1][2] = i + 1;
      else found.push([kind, i, i + 1]);
    });
    return found;
  }

  function blockName(row, column, cross) {
    const ofMemory = column === "memory" || column === "carried";
    if (row === "memory" || row === "carried") return ofMemory ? "process" : column === "cached" ? "write cached" : "write";
    if (ofMemory) return column === "carried" ? "read carried" : "read";
    return cross ? "source" : column === "cached" ? "cached" : "normal";
  }

  function large(example, weights, label) {
    const cell = 15, [rows, columns] = [example.rows.length, example.columns.length];
    const longest = (names) => Math.max(...names.map((name) => name.length)) * 5.9 + 10;
    const [left, top] = [longest(example.rows), longest(example.columns) + 14];
    const [width, height] = [left + columns * cell + 2, top + rows * cell + 2];
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "large" });
    svg.style.maxWidth = `${width}px`;
    example.rows.forEach((name, i) => svg.append(element("text",
      { x: left - 5, y: top + (i + 0.5) * cell, "text-anchor": "end", "dominant-baseline": "central" }, name)));
    example.columns.forEach((name, i) => svg.append(element("text",
      { transform: `translate(${left + (i + 0.5) * cell} ${top - 17}) rotate(-90)`, "dominant-baseline": "central" }, name)));
    weights.forEach((weight, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      const box = element("rect", { x: left + column * cell, y: top + row * cell, width: cell, height: cell,
        fill: `rgba(${colour()}, ${Math.sqrt(weight / 1000).toFixed(3)})` });
      box.append(element("title", {}, `${example.rows[row]} ← ${example.columns[column]}: ${(weight / 1000).toFixed(3)}`));
      svg.append(box);
    });
    const cross = example.part.includes("cross");
    for (const [row, r0, r1] of runs(example.rowKinds)) for (const [column, c0, c1] of runs(example.columnKinds)) {
      svg.append(element("rect", { x: left + c0 * cell, y: top + r0 * cell, width: (c1 - c0) * cell,
        height: (r1 - r0) * cell, class: "outline" }));
      svg.append(element("text", { x: left + c0 * cell + 2, y: r0 ? top + r1 * cell - 4 : top - 5, class: "block" },
        blockName(row, column, cross)));
    }
    return svg;
  }

  function words(example, key) {
    const masses = example.masses[key] || {};
    return Object.entries(masses).map(([block, [mass, uniform]]) =>
      `${block} ${mass.toFixed(2)}` + (uniform === null ? "" : ` (uniform ${uniform.toFixed(2)})`)).join(", ");
  }

  function draw() {
    const example = chosen(), [layer, head] = [Number(picks.layer.value), Number(picks.head.value)];
    const label = `Layer ${layer + 1}, head ${head + 1}, ${example.part}`;
    at("map").replaceChildren(large(example, example.weights[layer][head], label));
    at("map-text").textContent = `${label}. Over all sentences: ${words(example, `${layer + 1}.${head + 1}`)}.`;
    at("multiples").querySelectorAll("button").forEach((button, i) =>
      button.setAttribute("aria-pressed", i === layer * example.weights[0].length + head));
  }

  function pickExample() {
    const example = chosen(), heads = example.weights[0].length;
    fill(picks.layer, example.weights.map((_, i) => i + 1), picks.layer.value);
    fill(picks.head, example.weights[0].map((_, i) => i + 1), picks.head.value);
    at("multiples").style.gridTemplateColumns = `repeat(${heads}, minmax(0, 1fr))`;
    at("multiples").replaceChildren(...example.weights.flatMap((layer, l) => layer.map((weights, h) =>
      thumbnail(weights, example, `layer ${l + 1}, head ${h + 1}`, () => {
        [picks.layer.value, picks.head.value] = [l, h];
        draw();
      }))));
    draw();
  }

  function pickRecord() {
    const record = records[picks.record.value];
    fill(picks.example, record.examples.map((e) => `${e.part}, ${e.unit} ${e.sentence}`), 0);
    at("map-left").textContent = record.left ? `${record.left} more in the record, not in this page.` : "";
    pickExample();
  }

  fill(picks.record, records.map((record) => record.label), 0);
  picks.record.addEventListener("change", pickRecord);
  picks.example.addEventListener("change", pickExample);
  picks.layer.addEventListener("change", draw);
  picks.head.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", pickExample);
  at("maps").hidden = false;
  pickRecord();
})();
