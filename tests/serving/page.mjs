// Runs the page's own script outside a browser: node page.mjs ORIGIN SCRIPT SENDINGS, where SENDINGS is JSON of
// [model, what stands in the text area (null: the example), type of a file to send it as (null: the button)].
// Prints JSON of what the page shows as each answer.
import { readFileSync } from "node:fs";

const [origin, script, sendings] = process.argv.slice(2);
const byId = {};
class Element {
  constructor(tag) { Object.assign(this, { tag, textContent: "", value: "", files: [], children: [], listeners: {} }); }
  append(...made) { this.children.push(...made); }
  replaceChildren(...made) { this.children = made; }
  setAttribute() {}
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
  all(tag) { return this.children.flatMap((child) => child instanceof Element ? [...(child.tag === tag ? [child] : []), ...child.all(tag)] : []); }
}
for (const id of ["model", "models", "about"]) byId[id] = new Element(id);
const page = {
  document: {
    createElement: (tag) => new Element(tag),
    getElementById: (id) => byId[id],
    querySelectorAll: () => byId.models.all("button"),
  },
  location: { origin, hash: "" },
  history: { replaceState() {} },
  fetch: (path, options) => fetch(new URL(path, origin), options),
};
new Function(...Object.keys(page), readFileSync(script, "utf8"))(...Object.values(page));

const until = async (condition) => {
  for (let turn = 0; !condition(); turn++) {
    if (turn > 1000) throw new Error(`waited too long: ${byId.about.textContent}`);
    await new Promise((resume) => setTimeout(resume, 10));
  }
};
await until(() => byId.model.all("textarea").length);
const answers = [];
for (const [model, text, type] of JSON.parse(sendings)) {
  await byId.models.all("button").find((button) => button.textContent === model).listeners.click();
  const [area] = byId.model.all("textarea");
  const [out] = byId.model.all("pre");
  if (text !== null) area.value = text;
  if (type === null) byId.model.all("button").find((button) => button.textContent === "Send").listeners.click();
  else {
    const [file] = byId.model.all("input");
    file.files = [new Blob([text], { type })];
    file.listeners.change();
  }
  await until(() => out.textContent !== "" && out.textContent !== "…");
  answers.push(out.textContent);
}
console.log(JSON.stringify(answers));
