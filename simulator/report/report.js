"use strict";
(() => {
  const one = (selector, inside = document) => inside.querySelector(selector);
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

  // Numbers: the data behind each figure, as the page carries it.
  const data = (figure) => JSON.parse(one("script.data", figure).textContent);

  // Filtering: every word must occur in the row; "tp2" also finds TP 2. Charts dim what is filtered out.
  // What a chart selects is a filter as well.
  let chosen = null;
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
      row.hidden = (sku.value && row.dataset.sku !== sku.value) || (chosen && !chosen.has(row.id.slice(1))) || !words.every((word) => text.includes(word));
      shown += !row.hidden;
      pointsOf(row).forEach((point) => point.classList.toggle("dim", row.hidden));
    });
    one("#count").textContent = `${shown} of ${rows.length}`;
    one("#unselect").hidden = !chosen;
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
  const tell = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  all("[data-tip]").forEach((mark) => {
    const row = mark.dataset.row && one(`#r${mark.dataset.row}`);
    mark.addEventListener("mouseenter", (event) => { light(row, true); tell(mark.dataset.tip, event); });
    mark.addEventListener("mouseleave", () => { light(row, false); tip.hidden = true; });
    if (row) mark.addEventListener("click", () => row.scrollIntoView({ block: "center" }));
  });

  // Zoom and selection: a box dragged over a chart selects, "Zoom in" goes to it (else to the middle),
  // Ctrl and the wheel zoom at the pointer. d3 has the scales and the box.
  const time = (value) => (value >= 1 ? `${+value.toPrecision(6)} s` : `${+(value * 1e3).toPrecision(6)} ms`);
  const plain = (value) => (+value.toPrecision(6)).toLocaleString("en");
  const zoomable = (svg) => {
    const figure = svg.closest("figure"), numbers = data(figure), frame = one("rect", svg);
    const [left, top, width, height] = ["x", "y", "width", "height"].map((name) => Number(frame.getAttribute(name)));
    const right = left + width, bottom = top + height;
    const scale = (axis, range) => (axis.log ? d3.scaleLog() : d3.scaleLinear()).domain([axis.low, axis.high]).range(range);
    const whole = () => [scale(numbers.x, [left, right]), scale(numbers.y, [bottom, top])];
    const byRow = new Map(numbers.rows.map((row) => [String(row[0] - 1), row]));
    const ticks = (s, axis) => { const text = axis.time ? time : plain, write = axis.log ? s.tickFormat(5, text) : text;
      return s.ticks(5).map((value) => [s(value), write(value)]).filter(([, text]) => text); };
    let [x, y] = whole();
    const draw = () => {
      one(".ticks", svg).innerHTML = [
        ...ticks(y, numbers.y).map(([at, text]) => `<path class="grid" d="M${left} ${at}H${right}"/><text class="y" x="${left - 6}" y="${at + 4}">${text}</text>`),
        ...ticks(x, numbers.x).map(([at, text]) => `<path class="grid" d="M${at} ${top}V${bottom}"/><text class="x" x="${at}" y="${bottom + 16}">${text}</text>`),
      ].join("");
      all(".point", svg).forEach((point) => {
        const [, , , , , , across, low, high, up] = byRow.get(point.dataset.row), at = [x(across), y(up)];
        const inside = at[0] >= left && at[0] <= right && at[1] >= top && at[1] <= bottom;
        point.style.display = inside ? "" : "none";
        point.setAttribute("transform", `translate(${at})`);
        one(".bar", point)?.setAttribute("d", `M${x(low) - at[0]} -3v6m0 -3H${x(high) - at[0]}m0 -3v6`);
      });
      one(".frontier", svg)?.setAttribute("d", d3.line((p) => x(p[0]), (p) => y(p[1]))(numbers.frontier));
      const limit = (selector, at, from, to, d) => { const line = one(selector, svg);
        if (line) { line.setAttribute("d", d(at)); line.style.display = at >= from && at <= to ? "" : "none"; } };
      limit(".across", y(numbers.y.limit), top, bottom, (at) => `M${left} ${at}H${right}`);
      limit(".up", x(numbers.x.limit), left, right, (at) => `M${at} ${top}V${bottom}`);
    };
    const zoom = ([[x0, y0], [x1, y1]]) => {
      x = x.copy().domain([x.invert(x0), x.invert(x1)]); y = y.copy().domain([y.invert(y1), y.invert(y0)]);
      one(".whole", figure).disabled = false; draw();
    };
    const around = ([px, py], factor) => [[px - (px - left) * factor, py - (py - top) * factor], [px + (right - px) * factor, py + (bottom - py) * factor]];
    let box = null;
    const brush = d3.brush().extent([[left, top], [right, bottom]]).on("end", ({ selection, sourceEvent }) => {
      box = selection;
      if (!sourceEvent) return;
      chosen = selection && new Set([...byRow].filter(([, row]) => {
        const [px, py] = [x(row[6]), y(row[9])];
        return px >= box[0][0] && px <= box[1][0] && py >= box[0][1] && py <= box[1][1];
      }).map(([id]) => id));
      if (filter) applyFilter();
    });
    const layer = d3.select(one(".brush", svg));
    if (matchMedia("(pointer: fine)").matches) layer.call(brush); // a finger scrolls the page
    const clear = () => { if (box) layer.call(brush.move, null); };
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault(); zoom(around(d3.pointer(event, svg), event.deltaY < 0 ? 0.8 : 1.25));
    }, { passive: false });
    one(".zoom", figure).addEventListener("click", () => { zoom(box || around([(left + right) / 2, (top + bottom) / 2], 0.6)); clear(); });
    one(".whole", figure).addEventListener("click", (event) => { [x, y] = whole(); event.target.disabled = true; draw(); });
    one("#unselect").addEventListener("click", clear);
  };
  all("svg.scatter").forEach(zoomable);
  one("#unselect")?.addEventListener("click", () => { chosen = null; applyFilter(); });

  // CSV: raw values; text that a spreadsheet would run as a formula is quoted with an apostrophe.
  const field = (item) => {
    const text = typeof item === "string" && /^[=+\-@\t\r]/.test(item) ? `'${item}` : String(item);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (table) => [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells]
    .map((cell) => field(isAbsent(value(cell)) ? "" : value(cell))).join(",")).join("\n") + "\n";
  const numbersCsv = ({ columns, rows }) => [columns, ...rows]
    .map((row) => row.map((item) => field(item ?? "")).join(",")).join("\n") + "\n";
  all("button.csv").forEach((button) => button.addEventListener("click", () => {
    const figure = button.dataset.table ? null : data(button.parentElement);
    const link = document.createElement("a");
    const text = figure ? numbersCsv(figure) : csv(one(`#${button.dataset.table}`));
    link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(text)}`;
    link.download = `${figure ? figure.name : button.dataset.table}.csv`;
    link.click();
  }));
})();
