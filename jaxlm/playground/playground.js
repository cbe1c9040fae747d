"use strict";
// Tabs: arrow keys, Home and End move between them.
const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  tab.focus();
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const to = {
      ArrowRight: i + 1, ArrowLeft: i - 1 + tabs.length, Home: 0, End: tabs.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(tabs[to % tabs.length]);
  });
}

function line(kind, text) {
  const made = document.createElement("p");
  made.className = kind;
  made.dir = "auto";
  made.textContent = text;
  return made;
}

// An answer comes as lines of JSON. HTML in it is made, and escaped, by jaxlm.
async function ask(form) {
  const out = form.parentElement.querySelector(".out");
  const said = Object.fromEntries(new FormData(form));
  const button = form.querySelector("[type=submit]");
  const streamed = line("text", form.dataset.kind === "generate" ? said.text : "");
  out.replaceChildren();
  out.setAttribute("aria-busy", "true");
  button.disabled = true;
  const show = (record) => {
    if (record.text !== undefined && form.dataset.kind === "generate") {
      if (!streamed.isConnected) out.append(streamed);
      streamed.textContent += record.text;
    }
    if (record.html) out.insertAdjacentHTML("beforeend", record.html);
    if (record.page) {
      const frame = document.createElement("iframe");
      frame.sandbox = "allow-scripts";
      frame.title = "attention";
      frame.srcdoc = record.page;
      out.append(frame);
    }
    for (const kind of ["note", "error"]) {
      if (record[kind]) out.append(line(kind, record[kind]));
    }
  };
  try {
    const answer = await fetch(form.dataset.kind, {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify(said),
    });
    if (!answer.ok) throw new Error(answer.statusText);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const {value, done} = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      lines.forEach((each) => show(JSON.parse(each)));
    }
  } catch (error) {
    show({error: `no answer: ${error.message}; does jaxlm playground still run?`});
  }
  out.setAttribute("aria-busy", "false");
  button.disabled = false;
}

for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(form);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.example) {
    const form = button.form;
    for (const [name, value] of Object.entries(JSON.parse(button.dataset.example))) {
      form.elements[name].value = value;
    }
    form.requestSubmit();
  }
  if (button?.dataset.word !== undefined) {
    const field = button.closest("section").querySelector("textarea");
    let hole = Number(button.dataset.hole);
    const put = (found) => (hole-- === 0 ? button.dataset.word : found);
    field.value = field.value.replace(/\[MASK\]/g, put);
    field.focus();
  }
});
