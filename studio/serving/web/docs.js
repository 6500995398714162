"use strict";
// Everything that comes from a model is put into the page as text, never as markup.
const element = (tag, text, attributes = {}) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const origin = location.origin;
const shown = document.getElementById("model");

const examples = (name) => {
  const url = `${origin}/predict/${name}`;
  return {
    curl: `curl -s ${url} | curl -s -H "Content-Type: application/json" -d @- ${url}`,
    Python:
      `import json, urllib.request\n\nurl = "${url}"\nbody = urllib.request.urlopen(url).read()  # an example; put your own inputs here\n` +
      `request = urllib.request.Request(url, body, {"Content-Type": "application/json"})\nprint(json.load(urllib.request.urlopen(request)))`,
    JavaScript:
      `const url = "${url}";\nconst inputs = await (await fetch(url)).json();  // an example; put your own inputs here\n` +
      `const answer = await fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(inputs)});\nconsole.log(await answer.json());`,
  };
};

const table = (title, specs) => {
  const made = element("table");
  const head = element("tr");
  for (const word of [title, "type", "shape"]) head.append(element("th", word));
  made.append(head);
  for (const spec of specs) {
    const row = element("tr");
    const shape = spec.shape.map((size) => (size < 0 ? "any" : size)).join(" × ") || "scalar";
    for (const text of [spec.name, spec.datatype, shape]) row.append(element("td", text));
    made.append(row);
  }
  return made;
};

// Without a Content-Type, browsers call every text text/plain, which is a text to a model that takes one.
const typeOf = (text) => {
  try {
    const value = JSON.parse(text);
    return typeof value === "string" || (typeof value === "object" && value !== null) ? "application/json" : "text/plain";
  } catch {
    return "text/plain"; // a text, or rows of CSV
  }
};

const ask = async (name, body, type, out) => {
  out.textContent = "…";
  const started = performance.now();
  try {
    const answer = await fetch(`/predict/${name}`, { method: "POST", headers: type ? { "Content-Type": type } : {}, body });
    const text = await answer.text();
    const milliseconds = (performance.now() - started).toFixed(1);
    let pretty = text;
    // Integers of 16 digits and more are not what JavaScript makes of them.
    if (!/\d{16}/.test(text.replace(/\d\.\d+/g, ""))) {
      try { pretty = JSON.stringify(JSON.parse(text), null, 2); } catch { /* shown as it came */ }
    }
    out.textContent = `${answer.status} · ${milliseconds} ms\n${pretty}`;
  } catch (error) {
    out.textContent = `The server did not answer: ${error.message}`;
  }
};

const show = async (name) => {
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-pressed", button.textContent === name);
  history.replaceState(null, "", `#${name}`);
  const [about, example] = await Promise.all([
    fetch(`/v2/models/${name}`).then((answer) => answer.json()),
    fetch(`/predict/${name}`).then((answer) => answer.text()),
  ]);
  const input = element("textarea", undefined, { spellcheck: "false", "aria-label": "Request body" });
  input.value = example.length < 4000 ? JSON.stringify(JSON.parse(example), null, 1).replace(/\n\s+(?=[-\d\]])/g, " ") : example;
  const out = element("pre", "", { "aria-label": "Answer" });
  const send = element("button", "Send", { class: "go", type: "button" });
  send.addEventListener("click", () => ask(name, input.value, typeOf(input.value), out));
  const file = element("input", undefined, { type: "file", "aria-label": "Send a file" });
  file.addEventListener("change", () => file.files[0] && ask(name, file.files[0], file.files[0].type, out));
  const row = element("div", undefined, { class: "row" });
  row.append(send, element("span", "or send a file:"), file);
  shown.replaceChildren(element("h2", name), element("p", `Versions: ${about.versions.join(", ")}`));
  shown.append(table("input", about.inputs), table("output", about.outputs), element("h3", "Try it"), input, row, out);
  for (const [title, code] of Object.entries(examples(name))) shown.append(element("h3", title), element("pre", code));
};

const start = async () => {
  const models = (await (await fetch("/v2/models")).json()).models;
  document.getElementById("about").textContent = models.length
    ? `${models.length} model${models.length > 1 ? "s" : ""} on ${origin}`
    : "No model is served yet: drop one into the inbox.";
  for (const name of models) {
    const button = element("button", name, { type: "button", "aria-pressed": "false" });
    button.addEventListener("click", () => show(name));
    document.getElementById("models").append(button);
  }
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (models.length) await show(models.includes(wanted) ? wanted : models[0]);
};
start().catch((error) => { document.getElementById("about").textContent = `Loading failed: ${error.message}`; });
