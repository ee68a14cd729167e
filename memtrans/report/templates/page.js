// What is packed is unpacked when it is wanted: deflated, in base64.
async function unpacked(element) {
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

const able = Boolean(window.DecompressionStream); // browsers from before 2023 are not
document.documentElement.classList.toggle("able", able);

if (able) document.querySelectorAll("details > .packed").forEach((packed) => {
  const fold = packed.parentElement;
  fold.addEventListener("toggle", async () => fold.insertAdjacentHTML("beforeend", await unpacked(packed)), { once: true });
});

// Attention maps: small multiples of all layers and heads, and one large map with its tokens.
(() => {
  const at = (id) => document.getElementById(id);
  if (!able || !at("data-maps")) return;
  const models = JSON.parse(at("data-maps").textContent), read = {};
  const picks = { record: at("pick-record"), example: at("pick-example"), layer: at("pick-layer"), head: at("pick-head") };
  const colour = () => getComputedStyle(document.documentElement).getPropertyValue("--map");
  const record = () => read[models[picks.record.value].run], chosen = () => record().examples[picks.example.value];

  // the square roots of an example's weights: layers of heads
  function maps(example, letters) {
    const size = example.rows.length * example.columns.length;
    const values = Array.from(example.weights, (letter) => letters.indexOf(letter) / 63);
    const map = (place) => values.slice(place * size, (place + 1) * size);
    return Array.from({ length: example.layers }, (_, l) =>
      Array.from({ length: example.heads }, (_, h) => map(l * example.heads + h)));
  }

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
      context.fillStyle = `rgba(${colour()}, ${weight})`;
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
        fill: `rgba(${colour()}, ${weight.toFixed(3)})` });
      box.append(element("title", {}, `${example.rows[row]} ← ${example.columns[column]}: ${(weight * weight).toFixed(2)}`));
      svg.append(box);
    });
    const cross = example.part === "cross";
    for (const [row, r0, r1] of runs(example.rowKinds)) for (const [column, c0, c1] of runs(example.columnKinds)) {
      svg.append(element("rect", { x: left + c0 * cell, y: top + r0 * cell, width: (c1 - c0) * cell,
        height: (r1 - r0) * cell, class: "outline" }));
      svg.append(element("text", { x: left + c0 * cell + 2, y: r0 ? top + r1 * cell - 4 : top - 5, class: "block" },
        blockName(row, column, cross)));
    }
    return svg;
  }

  function words(example, layer, head) {
    const blocks = Object.entries(record().masses[example.part]);
    return blocks.filter(([, found]) => found.heads[layer]).map(([block, { heads, uniform }]) =>
      `${block} ${heads[layer][head].toFixed(2)}` + (uniform[layer] === null ? "" : ` (uniform ${uniform[layer].toFixed(2)})`)).join(", ");
  }

  function draw() {
    const example = chosen(), [layer, head] = [Number(picks.layer.value), Number(picks.head.value)];
    const label = `Layer ${layer + 1}, head ${head + 1}, ${example.partName}`;
    at("map").replaceChildren(large(example, example.maps[layer][head], label));
    at("map-text").textContent = `${label}. Over all sentences: ${words(example, layer, head)}.`;
    at("multiples").querySelectorAll("button").forEach((button, i) =>
      button.setAttribute("aria-pressed", i === layer * example.heads + head));
  }

  function pickExample() {
    const example = chosen();
    fill(picks.layer, example.maps.map((_, i) => i + 1), picks.layer.value);
    fill(picks.head, example.maps[0].map((_, i) => i + 1), picks.head.value);
    at("multiples").style.gridTemplateColumns = `repeat(${example.heads}, minmax(0, 1fr))`;
    at("multiples").replaceChildren(...example.maps.flatMap((layer, l) => layer.map((weights, h) =>
      thumbnail(weights, example, `layer ${l + 1}, head ${h + 1}`, () => {
        [picks.layer.value, picks.head.value] = [l, h];
        draw();
      }))));
    draw();
  }

  async function pickRecord() {
    const model = models[picks.record.value];
    if (!read[model.run]) {
      const found = JSON.parse(await unpacked(at(`maps-${model.run}`)));
      for (const example of found.examples) example.maps = maps(example, found.letters);
      read[model.run] = found;
    }
    if (model !== models[picks.record.value]) return; // another was picked meanwhile
    fill(picks.example, record().examples.map((e) => `${e.partName}, ${e.unit} ${e.sentence}`), 0);
    at("map-left").textContent = model.left ? `${model.left} more in the record, not in this page.` : "";
    pickExample();
  }

  fill(picks.record, models.map((model) => model.label), 0);
  picks.record.addEventListener("change", pickRecord);
  picks.example.addEventListener("change", pickExample);
  picks.layer.addEventListener("change", draw);
  picks.head.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => record() && pickExample());
  at("maps").hidden = false;
  pickRecord();
})();
