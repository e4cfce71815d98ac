// The one script of the report page. It adds sorting, filtering and hover values to what is
// complete without it.
"use strict";
(() => {
  const table = document.getElementById("notebooks");

  function keyOf(row, column) {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    if (value === undefined) return cell.textContent.trim().toLowerCase();
    if (value === "" || value === "None") return null;
    const number = Number(value);
    return Number.isNaN(number) ? value : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  // What was not measured stays at the end, whichever way the others are sorted.
  function sortBy(header) {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = Array.from(table.tBodies[0].rows, (row) => [keyOf(row, header.cellIndex), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return down ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function makeSortable() {
    for (const header of table.tHead.rows[0].cells) {
      if (header.hasAttribute("data-unsortable")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(header));
      header.append(button);
      header.setAttribute("aria-sort", "none");
    }
  }

  function makeFilterable() {
    const find = document.getElementById("find");
    const status = document.getElementById("status");
    const shown = document.getElementById("shown");
    const filter = () => {
      const text = find.value.trim().toLowerCase();
      let count = 0;
      for (const row of table.tBodies[0].rows) {
        const fits = row.textContent.toLowerCase().includes(text)
          && (!status.value || row.dataset.status === status.value);
        row.hidden = !fits;
        count += fits;
      }
      const all = table.tBodies[0].rows.length;
      shown.textContent = count === all ? `${all} notebooks` : `${count} of ${all} notebooks`;
    };
    find.addEventListener("input", filter);
    status.addEventListener("change", filter);
    filter();
    document.querySelector(".tools").hidden = false;
  }

  // A link into a folded part opens it.
  function unfold() {
    let part = null;
    try {
      part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return;
    }
    for (let node = part; node; node = node.parentElement) {
      if (node instanceof HTMLDetailsElement) node.open = true;
    }
  }

  makeSortable();
  makeFilterable();
  window.addEventListener("hashchange", unfold);
  unfold();
})();
