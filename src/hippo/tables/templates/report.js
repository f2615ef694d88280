"use strict";
document.documentElement.classList.add("js");

document.addEventListener("click", async event => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch {  // not allowed here: select it, to be copied by hand
    getSelection().selectAllChildren(code);
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const compare = (a, b) => a - b || a.localeCompare(b, "en", {numeric: true});
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      table.tBodies[0].append(...rows.sort((a, b) => sign * compare(value(a, column), value(b, column))));
    });
  });
}

const filter = document.getElementById("filter");
const texts = new Map([...document.querySelectorAll("#runs tbody tr")].map(row => [row, row.textContent.toLowerCase()]));
const narrow = () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  texts.forEach((text, row) => { row.hidden = !words.every(word => text.includes(word)); });
  const shown = [...texts.keys()].filter(row => !row.hidden);
  const settings = new Set(shown.map(row => row.dataset.setting));
  for (const card of document.querySelectorAll(".setting")) card.hidden = !settings.has(card.dataset.setting);
  document.getElementById("shown").value = `${shown.length} of ${texts.size} runs`;
};
filter.addEventListener("input", narrow);
narrow();
