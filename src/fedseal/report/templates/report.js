"use strict";
(() => {
  const PREFIX = "data:image/png;base64,";
  const cells = JSON.parse(document.getElementById("frames").textContent);

  // The page opens and prints with what the attack ended with; its iterations are shown on request only, and their
  // captions say that they are iterations, since the scores beside them are those of the end.
  function scrubber(card) {
    const { steps, total, frames } = cells[card.dataset.cell];
    const box = card.querySelector(".scrubber");
    const range = box.querySelector("input");
    const output = box.querySelector("output");
    const pictures = [...card.querySelectorAll("img[data-guess]")];
    const captions = pictures.map((img) => img.parentElement.querySelector("figcaption"));
    const ends = pictures.map((img, i) => [img.src, captions[i].textContent]);
    const last = frames.length - 1;
    let timer = 0;

    function show(place) {
      const words = steps[place] < 0 ? "result" : `step ${steps[place]} of ${Math.max(total, steps[place])}`;
      pictures.forEach((img, i) => {
        const end = place === last;
        img.src = end ? ends[i][0] : PREFIX + frames[place][i];
        captions[i].textContent = end ? ends[i][1] : `Iteration: ${words}`;
      });
      output.textContent = words;
      range.value = String(place);
      range.setAttribute("aria-valuetext", words);
    }
    function stop() {
      clearInterval(timer);
      timer = 0;
    }
    function play() {
      stop();
      let place = 0;
      show(place);
      timer = setInterval(() => {
        place += 1;
        show(place);
        if (place >= last) stop();
      }, Math.min(200, Math.max(70, 2600 / frames.length)));
    }

    range.addEventListener("input", () => { stop(); show(Number(range.value)); });
    box.querySelector("button").addEventListener("click", () => { if (timer) stop(); else play(); });
    box.hidden = pictures.length !== frames[0].length;
    show(last);
    return () => { stop(); show(last); };
  }

  const rewinds = [...document.querySelectorAll("article[data-cell]")]
    .filter((card) => cells[card.dataset.cell])
    .map(scrubber);

  function sortable(table) {
    // Every attacker has a body of its own, which begins with who it is and stays where it is.
    const bodies = [...table.tBodies].map((body) => ({ body, who: body.rows[0], rows: [...body.rows].slice(1) }));

    function sortBy(header) {
      const column = header.cellIndex;
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const numeric = header.dataset.numeric === "yes";
      const key = (row) => row.cells[column].dataset.key;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (numeric ? Number(x) - Number(y) || 0 : x.localeCompare(y, "en", { numeric: true }));
      };
      for (const { body, rows } of bodies) body.append(...rows.sort(order));
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    }
    for (const header of table.tHead.rows[0].cells) {
      header.querySelector("button").addEventListener("click", () => sortBy(header));
    }

    const section = table.closest("section");
    const filter = section.querySelector("input[type=search]");
    const shown = section.querySelector(".filter output");
    const plain = shown.textContent;
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const { who, rows } of bodies) {
        const attacker = who ? who.querySelector("bdi").textContent : "";
        for (const row of rows) {
          const text = [attacker, ...[...row.cells].map((cell) => cell.textContent)].join(" ").toLowerCase();
          row.hidden = !wanted.every((word) => text.includes(word));
          if (!row.hidden) left += 1;
        }
        if (who) who.hidden = rows.every((row) => row.hidden);
      }
      shown.textContent = wanted.length ? `${left} of ${plain}` : plain;
    });
  }
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target && target.closest("details");
    if (folded && !folded.open) {
      folded.open = true;
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", reveal);
  reveal();

  // Paper cannot unfold: everything is open while printing, and as it was afterwards.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    for (const rewind of rewinds) rewind();
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });
})();
