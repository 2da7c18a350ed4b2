"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const figures = JSON.parse($("figures-data").textContent);
  const texts = JSON.parse($("texts-data").textContent);
  const root = document.documentElement;

  // --- what the page shows is kept in its address, so that a reload (or a colleague) sees the same ---
  const kept = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const keep = (name, value) => {
    if (value) kept.set(name, value); else kept.delete(name);
    history.replaceState(null, "", "#" + kept.toString());
  };

  // --- figures ---
  const drawn = new Map();
  const draw = (div, figure) => {
    drawn.set(div, figure);
    return Plotly.react(div, figure.data, look.layout(div, figure), figures.config).then(() => {
      if (div.dataset.wired) return;
      div.dataset.wired = "yes";
      div.on("plotly_click", (event) => {
        const target = event.points[0] && event.points[0].customdata;
        if (target) read(texts.names.indexOf(target[2]), target[1]);
      });
    });
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target, figures[entry.target.dataset.figure]);
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll("[data-figure]").forEach((div) => seen.observe(div));

  // A chooser's figures are drawn where it has places for them, once it comes into sight.
  document.querySelectorAll("[data-chooser]").forEach((chooser) => {
    const selects = [...chooser.querySelectorAll("select")];
    const plots = [...chooser.querySelectorAll(".plot")];
    const show = () => {
      const chosen = figures[chooser.dataset.chooser + ":" + selects.map((select) => select.value).join("_")];
      chosen.forEach((figure, place) => {
        $(plots[place].id + "-title").textContent = figure.title;
        $(plots[place].id + "-caption").textContent = figure.caption;
        draw(plots[place], figure);
      });
    };
    for (const select of selects) {
      const wanted = kept.get(select.id);
      if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
      select.addEventListener("change", () => { keep(select.id, select.value); show(); });
    }
    const late = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      late.disconnect();
      show();
    }, { rootMargin: "600px" });
    late.observe(chooser);
  });

  look.themed(() => drawn.forEach((figure, div) => draw(div, figure)));

  // --- the table ---
  const body = document.querySelector("#trials-table tbody");
  document.querySelectorAll("#trials-table thead button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const header = button.parentElement;
      const up = header.getAttribute("aria-sort") !== "ascending";
      document.querySelectorAll("#trials-table th").forEach((th) => th.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column + 1].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
  body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-read]");
    if (button) read(Number(button.dataset.read), null);
  });

  // --- texts: always as text, never as markup ---
  const PAGE = 20;
  let limit = PAGE;
  const initial = (word) => String.fromCodePoint(word.codePointAt(0)).toLowerCase();
  const highlighted = (text) => {
    const words = [...text.matchAll(/\S+/g)];
    const parts = [];
    let at = 0, start = 0;
    for (let i = 1; i <= words.length; i++) {
      if (i < words.length && initial(words[i][0]) === initial(words[start][0])) continue;
      if (i - start > 1) {
        const end = words[i - 1].index + words[i - 1][0].length;
        parts.push(text.slice(at, words[start].index));
        const mark = document.createElement("mark");
        mark.textContent = text.slice(words[start].index, end);
        parts.push(mark);
        at = end;
      }
      start = i;
    }
    parts.push(text.slice(at));
    return parts;
  };
  const found = () => {
    const trial = $("text-trial").value, least = $("text-reward").value;
    const from = $("text-from").value, to = $("text-to").value;
    const words = $("text-search").value.toLowerCase();
    const rows = [];
    texts.trials.forEach((list, index) => {
      if (trial !== "" && Number(trial) !== index) return;
      for (const [generation, reward, kl, text] of list) {
        if ((from !== "" && generation < Number(from)) || (to !== "" && generation > Number(to))) continue;
        if (least !== "" && reward < Number(least)) continue;
        if (words && !text.toLowerCase().includes(words)) continue;
        rows.push({ index, generation, reward, kl, text });
      }
    });
    if ($("text-order").value === "reward") rows.sort((a, b) => b.reward - a.reward || a.generation - b.generation);
    return rows;
  };
  const list = () => {
    const rows = found();
    $("texts-list").replaceChildren(...rows.slice(0, limit).map((row) => {
      const item = document.createElement("li");
      const meta = document.createElement("div");
      meta.className = "meta";
      meta.textContent = `${texts.names[row.index]} · generation ${row.generation.toLocaleString("en")} · ` +
        `raw reward ${row.reward} · KL ${row.kl}`;
      const text = document.createElement("p");
      text.append(...highlighted(row.text));
      item.append(meta, text);
      return item;
    }));
    $("text-count").textContent = `${Math.min(limit, rows.length).toLocaleString("en")} of ` +
      `${rows.length.toLocaleString("en")} texts that match, of ${texts.shown.toLocaleString("en")} in this page`;
    $("text-more").hidden = rows.length <= limit;
  };
  const fields = ["text-trial", "text-from", "text-to", "text-search", "text-reward", "text-order"];
  const listAnew = () => {
    limit = PAGE;
    fields.forEach((name) => keep(name, $(name).value));
    list();
  };
  // The texts of a window, from its first generation; of the last one that has texts if none is given.
  const range = (first) => {
    $("text-from").value = first;
    $("text-to").value = first + texts.window - 1;
  };
  const lastOf = (index) => Math.max(0, ...texts.trials
    .filter((_, i) => index === "" || Number(index) === i)
    .map((rows) => (rows.length ? rows[rows.length - 1][0] : 0)));
  const lastWindow = (index) => Math.floor(lastOf(index) / texts.window) * texts.window;
  const read = (index, first) => {
    if (index < 0) return;
    $("text-trial").value = String(index);
    range(first === null ? lastWindow(index) : first);
    $("text-search").value = $("text-reward").value = "";
    $("text-order").value = "generation";
    listAnew();
    $("texts").scrollIntoView();
    $("text-trial").focus({ preventScroll: true });
  };
  fields.forEach((name) => {
    if (kept.has(name)) $(name).value = kept.get(name);
    $(name).addEventListener("input", listAnew);
  });
  $("texts-form").addEventListener("submit", (event) => event.preventDefault());
  $("text-first").addEventListener("click", () => { range(0); listAnew(); });
  $("text-last").addEventListener("click", () => { range(lastWindow($("text-trial").value)); listAnew(); });
  $("text-more").addEventListener("click", () => { limit += PAGE; list(); });
  list();

  // Links within the page scroll; the address stays what is shown.
  document.querySelectorAll('nav a, .skip').forEach((link) => link.addEventListener("click", (event) => {
    const target = $(link.getAttribute("href").slice(1));
    event.preventDefault();
    target.tabIndex = -1;
    target.focus({ preventScroll: true });
    target.scrollIntoView();
  }));

  // --- a page that is rebuilt while a sweep runs ---
  if ($("watch")) {
    const timer = setInterval(() => location.reload(), figures.watch * 1000);
    $("pause").addEventListener("click", () => { clearInterval(timer); $("watch").remove(); });
  }
  root.dataset.ready = "yes";
})();
