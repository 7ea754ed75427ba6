// Shows pairs one at a time and keeps what somebody says of them. Text from models becomes text nodes only.
"use strict";

const SHARED = "prefopt-labels";
const KEYS = { 1: ["a", 0], 2: ["a", 1], 3: ["a", 2], 4: ["a", 3], q: ["b", 0], w: ["b", 1], e: ["b", 2], r: ["b", 3] };
const OTHERS = { t: "tie", b: "both_bad", s: "skip" };
// Controls, and marks that turn the direction of what follows: shown by their code, for they would not be seen.
const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/;

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

function said(text) {
  const box = make("div", { class: "said", dir: "auto" });
  let plain = "";
  for (const character of text) {
    if (!ODD.test(character)) {
      plain += character;
      continue;
    }
    const code = "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    box.append(plain, make("span", { class: "odd", text: code }));
    plain = "";
  }
  box.append(plain);
  return box;
}

// What the browser keeps. Every label is an entry of its own, so that two windows do not overwrite one another.
class Kept {
  constructor(onFailure) {
    this.onFailure = onFailure;
  }

  read(key) {
    try {
      return JSON.parse(localStorage.getItem(SHARED + "/" + key));
    } catch {
      return null;
    }
  }

  write(key, value) {
    try {
      localStorage.setItem(SHARED + "/" + key, JSON.stringify(value));
      return true;
    } catch {
      this.onFailure();
      return false;
    }
  }
}

class Labelling {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.kept = new Kept(() => this.warn("not_kept"));
    this.lang = this.kept.read("lang") in data.texts ? this.kept.read("lang") : data.lang;
    this.name = this.kept.read("name") || "";
    this.place = 0;
    this.unsaved = false;
    this.message = ["", {}];
    this.warning = "";
    this.labels = new Map();
    this.load();
    this.build();
    this.firstLeft();
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("storage", () => { this.load(); this.show(); });
    addEventListener("beforeunload", (event) => { if (this.unsaved && this.warning) event.preventDefault(); });
  }

  say(key, values) {
    return this.data.texts[this.lang][key].replace(/\{(\w+)\}/g, (all, name) => (values && name in values ? values[name] : all));
  }

  entry(id) {
    return encodeURIComponent(this.name) + "/" + id;
  }

  load() {
    if (!this.name) return;
    for (const { id } of this.data.pairs) {
      const label = this.kept.read("labels/" + this.entry(id));
      if (label) this.labels.set(id, label);
    }
  }

  pair() {
    return this.data.pairs[this.place];
  }

  done() {
    return this.data.pairs.filter(({ id }) => this.labels.get(id)?.choice).length;
  }

  firstLeft() {
    const left = this.data.pairs.findIndex(({ id }) => !this.labels.get(id)?.choice);
    this.place = left < 0 ? this.data.pairs.length - 1 : left;
    this.show();
  }

  build() {
    document.documentElement.lang = this.lang === "zh" ? "zh-Hans" : this.lang;
    document.title = this.say("title");
    const say = (key) => this.say(key);
    const file = make("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: () => this.opened(file) });
    this.nameInput = make("input", { id: "name", autocomplete: "off", value: this.name, maxlength: 80, onchange: () => this.rename() });
    const nameForm = make("form", { class: "row", onsubmit: (event) => { event.preventDefault(); this.nameInput.blur(); } },
      make("label", { for: "name", text: say("name") }), this.nameInput);
    this.bar = make("progress", { "aria-label": say("progress"), max: this.data.pairs.length });
    this.count = make("span", { class: "count" });
    const header = make("header", {}, make("h1", { text: say("title") }), nameForm, this.bar, this.count,
      make("button", { type: "button", id: "save", text: say("save"), onclick: () => this.save() }),
      make("button", { type: "button", id: "open", text: say("open"), onclick: () => file.click() }), file,
      make("button", { type: "button", id: "language", text: say("language"), onclick: () => this.turnLanguage() }));
    this.alert = make("p", { role: "alert" });
    this.status = make("p", { role: "status" });
    this.prompt = make("section", { id: "prompt", "aria-label": say("prompt") });
    this.answers = make("section", { class: "answers" });
    this.judge = make("section", { class: "judge", "aria-label": say("judgment") });
    this.note = make("textarea", { id: "note", oninput: () => this.noted() });
    this.back = make("button", { type: "button", id: "back", text: "← " + say("back"), onclick: () => this.turn(-1) });
    this.forth = make("button", { type: "button", id: "forth", text: say("forth") + " →", onclick: () => this.turn(1) });
    this.where = make("span", { class: "where" });
    this.root.replaceChildren(header, this.alert, this.status,
      make("details", {}, make("summary", { text: say("help") }), make("p", { text: say("help.text") }), make("p", { text: say("help.keys") })),
      this.prompt, this.answers, this.judge,
      make("section", {}, make("label", { for: "note" }, make("kbd", { text: "n" }), say("note")), this.note),
      make("section", { class: "row" }, this.back, this.where, this.forth));
    this.buttons = this.judgeButtons();
  }

  judgeButtons() {
    const button = (key, choice, grade, text) => {
      const it = make("button", { type: "button", "data-choice": choice, "data-grade": grade, onclick: () => this.choose(choice, grade) },
        make("kbd", { text: key }), text);
      return it;
    };
    const all = [];
    for (const side of ["a", "b"]) {
      const group = make("div", { class: "grades", role: "group", "aria-label": this.say("prefer." + side) });
      for (const [key, [of, place]] of Object.entries(KEYS).filter(([, [of]]) => of === side)) {
        const grade = this.data.grades[place];
        group.append(button(key, of, grade, this.say("prefer." + side) + this.say("grade." + grade)));
      }
      all.push(...group.children);
      this.judge.append(group);
    }
    const both = make("div", { class: "both" });
    for (const [key, choice] of Object.entries(OTHERS)) both.append(button(key, choice, null, this.say("choice." + choice)));
    all.push(...both.children);
    this.judge.append(both);
    return all;
  }

  show() {
    const pair = this.pair();
    const label = this.labels.get(pair.id) || {};
    this.prompt.replaceChildren(...pair.prompt.map((turn) => this.turnOf(turn)));
    this.answers.replaceChildren(...["a", "b"].map((side) => make("div", { class: "answer" + (label.choice === side ? " chosen" : ""), "data-side": side },
      make("h2", { text: this.say("answer." + side) }), said(pair[side]))));
    for (const button of this.buttons) {
      const grade = button.getAttribute("data-grade");
      button.disabled = !this.name;
      button.setAttribute("aria-pressed", String(button.dataset.choice === label.choice && grade === (label.grade ?? null)));
    }
    if (document.activeElement !== this.note) this.note.value = label.note || "";
    this.note.disabled = !this.name;
    this.back.disabled = this.place === 0;
    this.forth.disabled = this.place === this.data.pairs.length - 1;
    const count = this.done();
    this.where.textContent = this.say("where", { place: this.place + 1, all: this.data.pairs.length });
    this.bar.value = count;
    this.count.textContent = this.say("count", { done: count, all: this.data.pairs.length });
    this.alert.textContent = this.warning ? this.say(this.warning) : "";
    const standing = !this.name ? "need_name" : count === this.data.pairs.length ? "all_done" : "";
    this.status.textContent = this.message[0] ? this.say(...this.message) : standing ? this.say(standing) : "";
  }

  turnOf(turn) {
    const role = "role." + turn.role in this.data.texts[this.lang] ? this.say("role." + turn.role) : turn.role;
    const extras = Object.entries(turn).filter(([name, value]) => !["role", "content"].includes(name) && value);
    return make("div", { class: "turn" }, make("h2", { text: role }), said(turn.content), ...extras.map(([name, value]) => said(name + ": " + value)));
  }

  tell(key, values) {
    this.message = [key, values || {}];
    this.show();
  }

  warn(key) {
    this.warning = key;
  }

  // Another name has labels of its own: two people at one computer do not mix theirs.
  rename() {
    this.name = this.nameInput.value.trim();
    this.kept.write("name", this.name);
    this.labels = new Map();
    this.message = ["", {}];
    this.load();
    this.firstLeft();
  }

  turnLanguage() {
    const all = Object.keys(this.data.texts);
    this.lang = all[(all.indexOf(this.lang) + 1) % all.length];
    this.kept.write("lang", this.lang);
    this.build();
    this.show();
  }

  put(id, label) {
    this.labels.set(id, label);
    this.unsaved = true;
    this.kept.write("labels/" + this.entry(id), label);
  }

  choose(choice, grade) {
    if (!this.name) return this.nameInput.focus();
    const { id } = this.pair();
    this.put(id, { choice, grade, note: this.labels.get(id)?.note || "", time: new Date().toISOString() });
    this.message = ["", {}];
    this.turn(1);
  }

  noted() {
    const { id } = this.pair();
    const label = this.labels.get(id) || { choice: null, grade: null };
    this.put(id, { ...label, note: this.note.value, time: new Date().toISOString() });
  }

  turn(by) {
    this.place = Math.min(Math.max(this.place + by, 0), this.data.pairs.length - 1);
    this.note.blur();
    this.show();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.matches("input, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const key = event.key.toLowerCase();
    if (key in KEYS) this.choose(KEYS[key][0], this.data.grades[KEYS[key][1]]);
    else if (key in OTHERS) this.choose(OTHERS[key], null);
    else if (key === "n") this.note.focus();
    else if (key === "arrowleft") this.turn(-1);
    else if (key === "arrowright") this.turn(1);
    else return;
    event.preventDefault();
  }

  save() {
    if (!this.name) return this.nameInput.focus();
    const labels = this.data.pairs.filter(({ id }) => this.labels.has(id)).map(({ id }) => ({ id, ...this.labels.get(id) }));
    const file = { format: this.data.format, version: 1, annotator: this.name, saved: new Date().toISOString(), labels };
    const address = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
    const name = this.name.replace(/[^\p{L}\p{N}_-]+/gu, "-");
    make("a", { href: address, download: "labels-" + name + ".json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    this.unsaved = false;
    this.tell("saved", { count: labels.length });
  }

  async opened(input) {
    const file = input.files[0];
    input.value = "";
    if (!file) return;
    let content = null;
    try {
      content = JSON.parse(await file.text());
    } catch {
      // said below
    }
    if (content?.format !== this.data.format || !Array.isArray(content.labels)) return this.tell("open.other", { file: file.name });
    const by = String(content.annotator || "");
    if (this.name && by !== this.name) return this.tell("open.name", { by, name: this.name });
    if (!this.name) {
      this.nameInput.value = by;
      this.rename();
    }
    const known = new Set(this.data.pairs.map(({ id }) => id));
    let taken = 0;
    let unknown = 0;
    for (const { id, choice, grade, note, time } of content.labels) {
      if (!known.has(id)) unknown += 1;
      else if (!(this.labels.get(id)?.time > time)) {
        this.put(id, { choice: choice ?? null, grade: grade ?? null, note: String(note || ""), time: String(time || "") });
        taken += 1;
      }
    }
    this.firstLeft();
    this.tell("open.done", { taken, unknown });
  }
}

new Labelling(document.getElementById("app"), JSON.parse(document.getElementById("data").textContent));
