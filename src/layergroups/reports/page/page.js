"use strict";
// Shows the items of a cell of the confusion matrix. All that comes from the data is set as text.
(() => {
  const runs = JSON.parse(document.getElementById("run-data").textContent);

  const made = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  };

  const pictureOf = ([source, words, confidence, name]) => {
    const item = made("li");
    const figure = made("figure");
    if (source) {
      const image = made("img");
      image.src = source;
      image.alt = words;
      image.title = words;
      figure.append(image);
    }
    figure.append(made("figcaption", "", confidence ? `${confidence}, ${name}` : name));
    item.append(figure);
    return item;
  };

  const show = (place, button) => {
    const run = runs[Number(place.dataset.run)];
    const cell = run.cells[button.dataset.cell];
    const panel = place.querySelector(".panel");
    const items = made("ul", "items");
    items.append(...cell.items.map((number) => pictureOf(run.items[number])));
    const parts = [made("h3", "", cell.title)];
    if (cell.note) parts.push(made("p", "hint", cell.note));
    panel.replaceChildren(...parts, items);
    for (const other of place.querySelectorAll("[data-cell]")) {
      other.setAttribute("aria-pressed", String(other.dataset.cell === button.dataset.cell));
    }
    const below = panel.getBoundingClientRect().top > window.innerHeight - 120;
    if (below) panel.scrollIntoView({ block: "nearest" });
  };

  // One stop for Tab in a matrix; the arrow keys go on to the next cell that has items.
  const STEPS = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
  };

  const walk = (matrix) => {
    const rows = [...matrix.tBodies[0].rows].map((row) =>
      [...row.cells].slice(1).map((cell) => cell.querySelector("button")));
    const all = rows.flat().filter(Boolean);
    all.forEach((button, number) => { button.tabIndex = number ? -1 : 0; });
    const enter = (button) => {
      all.forEach((other) => { other.tabIndex = other === button ? 0 : -1; });
      button.focus();
    };
    matrix.addEventListener("focusin", (event) => {
      if (event.target.matches("button")) {
        all.forEach((other) => { other.tabIndex = other === event.target ? 0 : -1; });
      }
    });
    matrix.addEventListener("keydown", (event) => {
      if (event.key === "Home" || event.key === "End") {
        event.preventDefault();
        enter(event.key === "Home" ? all[0] : all[all.length - 1]);
        return;
      }
      const step = STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      let row = rows.findIndex((line) => line.includes(event.target));
      let column = row < 0 ? -1 : rows[row].indexOf(event.target);
      do {
        row += step[0];
        column += step[1];
        if (rows[row]?.[column]) { enter(rows[row][column]); return; }
      } while (rows[row] && column >= 0 && column < rows[row].length);
    });
  };

  for (const place of document.querySelectorAll(".confusion")) {
    place.addEventListener("click", (event) => {
      const button = event.target.closest("[data-cell]");
      if (button) show(place, button);
    });
    place.querySelectorAll(".matrix").forEach(walk);
  }
})();
