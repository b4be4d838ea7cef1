/* Near-duplicates: boxes choose what to keep, two buttons save the ids of the rest. Nothing is stored. */
"use strict";
const ids = JSON.parse(document.getElementById("data").textContent);
const groups = [...document.querySelectorAll("main section")].map((section) => ({
  section, boxes: [...section.querySelectorAll("input")],
}));
const boxes = groups.flatMap((group) => group.boxes);
const status = document.getElementById("status");
const text = document.getElementById("text"), json = document.getElementById("json");
const NO_LINE = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}]/u;   // may break a line, or is not UTF-8

function dropped() { return ids.filter((_, at) => !boxes[at].checked); }

function refresh() {
  const drop = dropped();
  let empty = 0;
  for (const { section, boxes: own } of groups) {
    const none = own.every((box) => !box.checked);
    section.querySelector(".none").hidden = !none;
    section.querySelector("button").disabled = own.every((box) => box.checked);
    empty += none;
  }
  const warning = empty ? `; ${empty} ${empty === 1 ? "group keeps" : "groups keep"} no image` : "";
  status.textContent = `${drop.length} of ${ids.length} images to drop${warning}`;
  json.disabled = !drop.length;
  text.disabled = !drop.length || drop.some((id) => NO_LINE.test(id));
  text.title = drop.length && text.disabled ? "An id has control characters, which text cannot hold: save drop.json" : "";
}

function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/* Arrows: the box beside this one, or the first of the next group. */
function neighbour(box, key) {
  const at = boxes.indexOf(box);
  if (key === "ArrowRight") return boxes[at + 1];
  if (key === "ArrowLeft") return boxes[at - 1];
  const group = groups.findIndex(({ boxes: own }) => own.includes(box));
  return groups[group + { ArrowDown: 1, ArrowUp: -1 }[key]]?.boxes[0];
}

document.querySelector("main").addEventListener("change", refresh);
document.querySelector("main").addEventListener("keydown", (event) => {
  if (event.target.type !== "checkbox" || !event.key.startsWith("Arrow")) return;
  event.preventDefault();
  neighbour(event.target, event.key)?.focus();
});
for (const { section, boxes: own } of groups) {
  section.querySelector("button").addEventListener("click", () => {
    for (const box of own) box.checked = true;
    refresh();
  });
}
text.addEventListener("click", () => save("drop.txt", dropped().map((id) => `${id}\n`).join(""), "text/plain"));
json.addEventListener("click", () => save("drop.json", `${JSON.stringify(dropped(), null, 2)}\n`, "application/json"));
document.getElementById("reset").addEventListener("click", () => {
  for (const box of boxes) box.checked = box.defaultChecked;
  refresh();
});
refresh();
