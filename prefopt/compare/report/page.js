// Sorts tables, turns light to dark, and shows responses. Text from models becomes text nodes only, never markup.
"use strict";

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function themes() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  button.hidden = false;
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
}

// Numbers by size, texts by the alphabet, and what has no value last in either direction.
function compare(one, other, direction) {
  if (one === null || other === null) return (one === null) - (other === null);
  const numbers = [Number(one), Number(other)];
  if (numbers.every((each) => !Number.isNaN(each))) return direction * (numbers[0] - numbers[1]);
  return direction * one.localeCompare(other);
}

function sortBy(table, place) {
  const heads = [...table.tHead.rows[0].cells];
  const order = (row) => row.cells[place].getAttribute("data-order");
  const rows = [...table.tBodies[0].rows];
  const was = heads[place].getAttribute("aria-sort");
  const numeric = rows.some((row) => order(row) !== null && order(row) !== "" && !Number.isNaN(Number(order(row))));
  // Numbers start with the highest, names with A.
  const rising = was ? was === "descending" : !numeric;
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[place].setAttribute("aria-sort", rising ? "ascending" : "descending");
  rows.sort((one, other) => compare(order(one), order(other), rising ? 1 : -1));
  table.tBodies[0].append(...rows);
}

function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    const button = make("button", { type: "button", text: head.textContent, onclick: () => sortBy(table, place) });
    head.replaceChildren(button);
  });
}

// From half of the page's width to all of it, and back.
function enlargeable(button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const large = button.closest("figure").classList.toggle("large");
    button.setAttribute("aria-pressed", String(large));
  });
}

function copyable(button, copied) {
  const code = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    // Where the clipboard is refused, the text is selected and Ctrl+C does it.
    await navigator.clipboard?.writeText(code.textContent).then(() => { button.textContent = copied; }, () => {});
  });
}

class Browser {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.place = 0;
    this.hidden = new Set();
    this.found = data.samples;
    this.build();
    this.choose();
  }

  say(key, values) {
    return this.data.texts[key].replace(/\{(\w+)\}/g, (all, name) => (values && name in values ? values[name] : all));
  }

  metric(name) {
    return this.data.metrics.find((metric) => metric.name === name);
  }

  build() {
    const say = (key) => this.say("samples." + key);
    const others = this.data.methods.filter((name) => name !== this.data.baseline);
    const again = () => this.choose();
    const search = make("input", { type: "search", oninput: again });
    this.search = search;
    this.method = this.select([...others, this.data.baseline].map((name) => [name, name]), again);
    this.outcome = this.select([["", say("any")], ["1", say("won")], ["0.5", say("tied")], ["0", say("lost")]], again);
    this.ending = this.select([["", say("any")], ["yes", say("finished")], ["no", say("unfinished")]], again);
    this.order = this.select(this.orders(), again);
    const labelled = (key, control) => {
      control.id = "samples-" + key;
      return make("div", { class: "field" }, make("label", { for: control.id, text: say(key) }), control);
    };
    this.filters = make("div", { class: "filters" }, labelled("search", search), labelled("look_at", this.method),
      labelled("outcome", this.outcome), labelled("ending", this.ending), labelled("sort", this.order), this.shown());
    this.back = make("button", { type: "button", class: "back", text: "← " + say("previous"), onclick: () => this.turn(-1) });
    this.forth = make("button", { type: "button", class: "forth", text: say("next") + " →", onclick: () => this.turn(1) });
    this.where = make("span", { class: "place", role: "status" });
    const pager = make("div", { class: "pager" }, this.back, this.forth, this.where,
      make("span", { class: "hint", text: say("keys") }));
    this.page = make("div", { class: "page" });
    this.root.setAttribute("tabindex", "0");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-labelledby", "samples-title");
    this.root.replaceChildren(this.filters, pager, this.page);
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  select(options, changed) {
    return make("select", { onchange: changed }, ...options.map(([value, text]) => make("option", { value, text })));
  }

  orders() {
    const options = [["", this.say("samples.given")]];
    for (const metric of this.data.metrics) {
      const by = { metric: metric.label };
      const main = metric.name === this.data.primary;
      if (main) options.push([metric.name + " up gain", this.say("samples.gain_up", by)],
        [metric.name + " down gain", this.say("samples.gain_down", by)]);
      options.push([metric.name + " up", this.say("samples.up", by)], [metric.name + " down", this.say("samples.down", by)]);
    }
    return options;
  }

  shown() {
    const boxes = this.data.methods.map((name) => {
      const box = make("input", { type: "checkbox", checked: true, value: name });
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(name);
        else this.hidden.add(name);
        this.choose();
      });
      return make("label", {}, box, name);
    });
    return make("fieldset", {}, make("legend", { text: this.say("samples.shown") }), ...boxes);
  }

  answer(sample, name) {
    return sample.answers.find((answer) => answer.method === name);
  }

  // The filters by outcome and ending, and the order, go by the method that is looked at.
  fits(sample) {
    const answer = this.answer(sample, this.method.value);
    if (this.outcome.value && (!answer || answer.outcome === null || answer.outcome !== Number(this.outcome.value))) return false;
    if (this.ending.value && (!answer || answer.finished !== (this.ending.value === "yes"))) return false;
    const sought = this.search.value.trim().toLowerCase();
    if (!sought) return true;
    const texts = sample.answers.filter((each) => !this.hidden.has(each.method)).map((each) => each.text);
    return [...sample.prompt.map((turn) => turn.content), ...texts].some((text) => text.toLowerCase().includes(sought));
  }

  rank(sample, name, gain) {
    const value = (answer) => answer?.values[name] ?? null;
    const own = value(this.answer(sample, this.method.value));
    const base = gain ? value(this.answer(sample, this.data.baseline)) : 0;
    return own === null || base === null ? null : own - base;
  }

  choose() {
    this.found = this.data.samples.filter((sample) => this.fits(sample));
    const [name, way, gain] = this.order.value.split(" ");
    if (name) {
      const direction = way === "up" ? -1 : 1;
      this.found.sort((one, other) => compare(this.rank(one, name, gain), this.rank(other, name, gain), direction));
    }
    this.place = 0;
    this.show();
  }

  turn(step) {
    this.place = Math.min(Math.max(this.place + step, 0), Math.max(this.found.length - 1, 0));
    this.show();
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.matches("select, input[type=search]")) return;
    event.preventDefault();
    this.turn(steps[event.key]);
  }

  show() {
    const count = { number: this.found.length ? this.place + 1 : 0, found: this.found.length, all: this.data.samples.length };
    const key = count.found === count.all ? "samples.count" : "samples.count_of";
    this.where.textContent = count.found ? this.say(key, count) : this.say("samples.nothing");
    this.back.disabled = this.place === 0;
    this.forth.disabled = this.place >= this.found.length - 1;
    this.page.replaceChildren(...(count.found ? this.parts(this.found[this.place]) : []));
  }

  parts(sample) {
    const turns = sample.prompt.map((turn) => make("div", { class: "turn" },
      make("span", { class: "role", text: this.data.texts["role." + turn.role] || turn.role }),
      make("span", { class: "told", dir: "auto", text: turn.content })));
    const shown = this.data.methods.filter((name) => !this.hidden.has(name)).map((name) => this.answer(sample, name));
    return [make("div", { class: "prompt" }, ...turns),
      make("div", { class: "answers" }, ...shown.filter(Boolean).map((answer) => this.card(answer)))];
  }

  card(answer) {
    const outcomes = { 1: ["won", "▲"], 0.5: ["tied", "＝"], 0: ["lost", "▼"] };
    const [kind, mark] = outcomes[answer.outcome] || ["", ""];
    const said = kind ? mark + " " + this.say("samples." + kind)
      : answer.method === this.data.baseline ? this.data.texts.baseline : "";
    const blank = !answer.text.trim();
    const measures = this.data.metrics.filter((metric) => metric.name in answer.values).map((metric) =>
      make("span", { title: metric.about }, metric.label + " ", make("b", { text: this.digits(answer.values[metric.name], metric) })));
    if (!answer.finished) measures.push(make("span", { class: "cut", text: this.say("samples.unfinished") }));
    return make("article", { class: "answer " + kind },
      make("header", {}, make("h3", { text: answer.method }), make("span", { class: "mark", text: said })),
      make("p", { class: "told" + (blank ? " blank" : ""), dir: "auto", text: blank ? this.say("samples.empty") : answer.text }),
      make("div", { class: "measures" }, ...measures));
  }

  // A count has no digits after the point.
  digits(value, metric) {
    return value.toFixed(metric.name === "length" ? 0 : metric.digits).replace("-", "\u2212");
  }
}

themes();
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("button.enlarge").forEach(enlargeable);
const browser = document.getElementById("browser");
document.querySelectorAll("button.copy").forEach((button) => copyable(button, button.dataset.copied));
if (browser) new Browser(browser, JSON.parse(document.getElementById("data").textContent));
