// The script of the report page. It adds sorting, filtering and hover values; the page is complete without it.
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

  // Missing values stay at the end in both directions.
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
    const none = document.getElementById("none-fits");
    const find = document.getElementById("find");
    const status = document.getElementById("status");
    const shown = document.getElementById("shown");
    const filter = () => {
      const text = find.value.trim().toLowerCase();
      let count = 0;
      for (const row of table.tBodies[0].rows) {
        const searched = `${row.cells[0].querySelector("a").textContent} ${row.dataset.status}`;
        const fits = searched.toLowerCase().includes(text)
          && (!status.value || row.dataset.status === status.value);
        row.hidden = !fits;
        count += fits;
      }
      const all = table.tBodies[0].rows.length;
      const noun = all === 1 ? "notebook" : "notebooks";
      shown.textContent = count === all ? `${all} ${noun}` : `${count} of ${all} ${noun}`;
      none.hidden = count > 0;
      table.parentElement.hidden = count === 0;
    };
    find.addEventListener("input", filter);
    status.addEventListener("change", filter);
    document.getElementById("show-all").addEventListener("click", () => {
      find.value = status.value = "";
      filter();
      find.focus();
    });
    filter();
    document.querySelector(".tools").hidden = false;
  }

  // A chart contains its data: coordinates of paths, which two attributes convert back to values.
  function seriesOf(svg) {
    return Array.from(svg.querySelectorAll("[data-series]"), (group) => {
      const numbers = group.querySelector("path").getAttribute("d").match(/-?[\d.]+/g).map(Number);
      const [step, origin] = group.dataset.value.split(" ").map(Number);
      const points = [];
      for (let at = 0; at + 1 < numbers.length; at += 2) points.push([numbers[at], (origin - numbers[at + 1]) * step]);
      return { name: group.dataset.series, unit: group.dataset.unit, points };
    });
  }

  function nearest(points, x) {
    let low = 0;
    let high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] <= x) low = middle; else high = middle;
    }
    return x - points[low][0] < points[high][0] - x ? points[low] : points[high];
  }

  function clock(seconds) {
    if (seconds < 60) return `${seconds.toFixed(1)}s`;
    const whole = Math.round(seconds);
    const two = (number) => String(number).padStart(2, "0");
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours}h${two(minutes)}m${two(whole % 60)}s` : `${minutes}m${two(whole % 60)}s`;
  }

  // Show the values at the pointer, or at the position moved by the arrow keys.
  function makeReadable(svg) {
    const figure = svg.closest("figure");
    const [step, left] = svg.dataset.seconds.split(" ").map(Number);
    const { width, height } = svg.viewBox.baseVal;
    const right = width - 14;
    const readout = document.createElement("div");
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    let series = null;
    let x = left;
    readout.className = "readout";
    readout.setAttribute("role", "status");
    readout.hidden = true;
    cursor.setAttribute("class", "cursor");

    const show = (place) => {
      series ??= seriesOf(svg);
      x = Math.min(Math.max(place, left), right);
      for (const [name, value] of [["x1", x], ["x2", x], ["y1", 20], ["y2", height - 20]]) cursor.setAttribute(name, value);
      const lines = [clock((x - left) * step)];
      for (const one of series) lines.push(`${one.name}: ${nearest(one.points, x)[1].toFixed(1)} ${one.unit}`);
      readout.replaceChildren(...lines.map((line) => {
        const paragraph = document.createElement("p");
        paragraph.textContent = line;
        return paragraph;
      }));
      readout.hidden = false;
      if (!cursor.isConnected) svg.append(cursor);
      const pixels = svg.getBoundingClientRect().width * x / width;
      const beside = pixels + 14 + readout.offsetWidth > svg.getBoundingClientRect().width;
      readout.style.left = `${Math.max(0, beside ? pixels - 14 - readout.offsetWidth : pixels + 14)}px`;
    };
    const hide = () => {
      readout.hidden = true;
      cursor.remove();
    };

    figure.append(readout);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show((event.clientX - box.left) / box.width * width);
    });
    svg.addEventListener("pointerleave", hide);
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      show(readout.hidden ? x : x + move * (event.shiftKey ? 50 : 5));
    });
  }

  // Unfold the target of a link.
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
    part?.scrollIntoView();
  }

  for (const svg of document.querySelectorAll("svg[data-seconds]")) makeReadable(svg);
  if (table) {
    makeSortable();
    makeFilterable();
  }
  window.addEventListener("hashchange", unfold);
  unfold();
})();
