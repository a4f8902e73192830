"use strict";
for (const table of document.querySelectorAll(".table table")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.replaceAll(",", "");
    return text !== "" && !isNaN(text) ? Number(text) : cell.textContent;
  };
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.setAttribute("aria-label", `Sort by ${heading.textContent}`);
    heading.append(button); // over the text, which printing repeats on every page and the text of buttons not
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((one, two) => {
        const a = value(one, column), b = value(two, column);
        const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
  const download = document.createElement("button");
  download.type = "button";
  download.className = "download";
  download.textContent = "Download as CSV";
  download.addEventListener("click", () => {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [...table.rows].map((row) => [...row.cells].map((cell) => {
      const text = cell.dataset.v ?? cell.textContent;
      return quoted(text === "–" ? "" : text);
    }).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = table.id + ".csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  table.closest(".table").append(download);
}
