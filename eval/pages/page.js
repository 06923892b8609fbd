"use strict";
function compare(a, b, direction) {
  const [x, y] = [a, b].map(cell => "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent);
  if (typeof x === "string") return direction * x.localeCompare(y);
  if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);  // dashes stand last either way
  return direction * (x - y);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], headers = [...table.tHead.rows[0].cells];
  const tools = (table.closest(".wide") ?? table).previousElementSibling, filter = tools.querySelector("input");

  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
    const before = header.getAttribute("aria-sort");
    const first = header.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    headers.forEach(each => each.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const direction = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => compare(a.cells[column], b.cells[column], direction));
    body.append(...rows);
  }));

  const show = () => {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of rows)
      row.hidden = ![0, 1].some(i => row.cells[i].textContent.toLowerCase().includes(wanted));
    tools.querySelector("output").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  };
  filter.addEventListener("input", show);
  tools.hidden = false;
  show();
}
