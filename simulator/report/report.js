"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  all(".controls").forEach((controls) => { controls.hidden = false; });

  // Theme: the system's until the reader says otherwise.
  const theme = one("#theme"), root = document.documentElement;
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  nameTheme();

  // Sorting: by the raw value where a cell has one; absent ones always come last.
  const value = (cell) => cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
  const isAbsent = (item) => item === "–" || item === "";
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const sort = (table, column, heading) => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
    rows.sort(([a], [b]) => isAbsent(a) || isAbsent(b) ? isAbsent(a) - isAbsent(b) : (up ? 1 : -1) * compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  all("#ranking, #refused").forEach((table) => [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => sort(table, column, heading));
  }));

  // Filtering: every word must occur in the row; "tp2" also finds TP 2. Charts dim what is filtered out.
  const filter = one("#filter"), sku = one("#sku");
  const points = new Map();
  all(".point").forEach((point) => {
    points.set(point.dataset.row, [...(points.get(point.dataset.row) || []), point]);
  });
  const pointsOf = (row) => points.get(row.id.slice(1)) || [];
  const applyFilter = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all("#ranking tbody tr");
    let shown = 0;
    rows.forEach((row) => {
      const [, , tp, pp] = [...row.cells].map((cell) => cell.textContent.trim());
      const text = `${row.textContent} tp${tp} pp${pp}`.toLowerCase();
      row.hidden = (sku.value && row.dataset.sku !== sku.value) || !words.every((word) => text.includes(word));
      shown += !row.hidden;
      pointsOf(row).forEach((point) => point.classList.toggle("dim", row.hidden));
    });
    one("#count").textContent = `${shown} of ${rows.length}`;
  };
  if (filter) {
    filter.addEventListener("input", applyFilter);
    sku.addEventListener("change", applyFilter);
    applyFilter();
  }

  // Hover: the same configuration lights up in the table and in every chart.
  const tip = one("#tip");
  const light = (row, on) => {
    if (!row) return;
    row.classList.toggle("lit", on);
    pointsOf(row).forEach((point) => point.classList.toggle("lit", on));
  };
  all("#ranking tbody tr").forEach((row) => {
    row.addEventListener("mouseenter", () => light(row, true));
    row.addEventListener("mouseleave", () => light(row, false));
  });
  all(".point").forEach((point) => {
    const row = one(`#r${point.dataset.row}`), title = point.querySelector("title");
    const label = title.textContent;
    title.remove(); // the browser's own tip would come on top of ours
    point.addEventListener("mouseenter", (event) => {
      light(row, true);
      tip.textContent = label;
      tip.hidden = false;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
    });
    point.addEventListener("mouseleave", () => { light(row, false); tip.hidden = true; });
    point.addEventListener("click", () => row.scrollIntoView({ block: "center" }));
  });

  // CSV: raw values; text that a spreadsheet would run as a formula is quoted with an apostrophe.
  const field = (item) => {
    const text = typeof item === "string" && /^[=+\-@\t\r]/.test(item) ? `'${item}` : String(item);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (table) => [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells]
    .map((cell) => field(isAbsent(value(cell)) ? "" : value(cell))).join(",")).join("\n") + "\n";
  all("button.csv").forEach((button) => button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(csv(one(`#${button.dataset.table}`)))}`;
    link.download = `${button.dataset.table}.csv`;
    link.click();
  }));
})();
