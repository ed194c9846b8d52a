"use strict";
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const tip = document.getElementById("tip");
  const readout = document.getElementById("readout");
  const number = new Intl.NumberFormat("en");
  const uses = data.uses;

  /* "code,length code …", base 36, row after row from address 0 → one code a cell */
  function cells(map) {
    const grid = new Int32Array(map.rows * map.columns);
    let at = 0;
    for (const run of map.runs.split(" ")) {
      const [code, length] = run.split(",");
      const end = at + (length === undefined ? 1 : parseInt(length, 36));
      grid.fill(parseInt(code, 36), at, end);
      at = end;
    }
    return grid;
  }

  function seconds(value) {
    if (value < 600) return `${value.toFixed(value < 100 ? 2 : 1)} s`;
    return value < 10800 ? `${(value / 60).toFixed(2)} min` : `${(value / 3600).toFixed(2)} h`;
  }

  function plural(count, word) {
    return `${number.format(count)} ${word}${count === 1 ? "" : "s"}`;
  }

  function lines(map, code, column, row) {
    const use = uses[code % uses.length];
    const request = Math.floor(code / uses.length) - 1;
    const time = map.start + ((column + 0.5) * (map.end - map.start)) / map.columns;
    const low = Math.floor((row * map.capacity) / map.rows);
    const high = Math.max(low, Math.floor(((row + 1) * map.capacity) / map.rows) - 1);
    const found = [use.text, `${seconds(time)}, slots ${number.format(low)} to ${number.format(high)}`];
    if (request >= 0) {
      found[0] = `Request ${number.format(request)}: ${use.text}`;
      const known = map.requests[request];
      if (known) {
        found.push(`prompt ${plural(known[0], "token")}, output ${number.format(known[1])}`);
        if (known[2]) found.push(`${plural(known[2], "token")} found in the cache`);
        if (known[3]) found.push(`preempted ${known[3] === 1 ? "once" : `${number.format(known[3])} times`}`);
      }
    }
    return found;
  }

  function setUp(box) {
    const map = data.maps[Number(box.dataset.map)];
    let grid = null;
    let cursor = null;
    const canvas = document.createElement("canvas");
    canvas.width = map.columns;
    canvas.height = map.rows;
    box.append(canvas);
    const brush = canvas.getContext("2d");

    /* dim everything but the request under the pointer */
    function light(code) {
      brush.clearRect(0, 0, map.columns, map.rows);
      const owner = Math.floor(code / uses.length);
      if (owner < 1) return;
      const paper = matchMedia("(prefers-color-scheme: dark)").matches ? 20 : 255;
      const image = brush.createImageData(map.columns, map.rows);
      for (let row = 0; row < map.rows; row++) {
        const line = (map.rows - 1 - row) * map.columns;
        for (let column = 0; column < map.columns; column++) {
          const mine = Math.floor(grid[row * map.columns + column] / uses.length) === owner;
          const at = 4 * (line + column);
          image.data[at] = image.data[at + 1] = image.data[at + 2] = mine ? 0 : paper;
          image.data[at + 3] = mine ? 0 : 150;
        }
      }
      brush.putImageData(image, 0, 0);
    }

    function show(column, row, x, y) {
      grid ??= cells(map);
      cursor = [column, row];
      const code = grid[row * map.columns + column];
      const text = lines(map, code, column, row);
      tip.replaceChildren(...text.map((line, place) => {
        const part = document.createElement(place ? "span" : "b");
        part.textContent = line;
        return part;
      }));
      tip.hidden = false;
      const room = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - room.width - 8))}px`;
      tip.style.top = `${y + 18 + room.height > innerHeight ? Math.max(8, y - room.height - 12) : y + 18}px`;
      light(code);
      return text;
    }

    function hide() {
      tip.hidden = true;
      brush.clearRect(0, 0, map.columns, map.rows);
    }

    function point(event) {
      const place = box.getBoundingClientRect();
      const column = Math.floor(((event.clientX - place.left) / place.width) * map.columns);
      const row = Math.floor(((place.bottom - event.clientY) / place.height) * map.rows);
      if (column < 0 || row < 0 || column >= map.columns || row >= map.rows) return hide();
      show(column, row, event.clientX, event.clientY);
    }

    function move(event) {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (event.key === "Escape") return hide();
      if (!step) return;
      event.preventDefault();
      const factor = event.shiftKey ? 10 : 1;
      const [column, row] = cursor ?? [Math.floor(map.columns / 2), Math.floor(map.rows / 2)];
      const next = [column + factor * step[0], row + factor * step[1]];
      next[0] = Math.max(0, Math.min(map.columns - 1, next[0]));
      next[1] = Math.max(0, Math.min(map.rows - 1, next[1]));
      const place = box.getBoundingClientRect();
      const x = place.left + ((next[0] + 0.5) / map.columns) * place.width;
      const y = place.bottom - ((next[1] + 0.5) / map.rows) * place.height;
      readout.textContent = show(...next, x, y).join("; ");
    }

    box.addEventListener("pointermove", point);
    box.addEventListener("pointerdown", point);
    box.addEventListener("pointerleave", hide);
    box.addEventListener("keydown", move);
    box.addEventListener("blur", hide);
  }

  document.querySelectorAll(".picture").forEach(setUp);
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
})();
