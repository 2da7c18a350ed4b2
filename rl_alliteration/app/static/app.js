"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const main = () => $("main");

  // --- what goes wrong, and what is new, in a line ---
  const trouble = (line) => { $("trouble").textContent = line; $("trouble").hidden = !line; };
  const tell = (line) => { $("news").textContent = line; };

  // --- figures: Plotly comes from this server, once there is something to draw ---
  let plotly = null;
  const library = () => plotly ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = root.dataset.plotly;
    script.onload = resolve;
    script.onerror = () => reject(new Error("the script that draws figures could not be loaded"));
    document.head.append(script);
  });
  const drawn = new Map();
  const address = (places, point) => {
    const [, generation, name] = point;
    if (!Object.hasOwn(places, name)) return null;
    return "/rollouts?" + new URLSearchParams({ trial: places[name], generation, scope: "window" });
  };
  const draw = (div) => {
    const { figure, config } = drawn.get(div);
    // What a reader has zoomed into stays when new numbers come.
    const layout = { ...look.layout(div, figure), uirevision: "kept" };
    Plotly.react(div, figure.data, layout, config).then(() => {
      div.dataset.drawn = "yes";
      if (div.dataset.wired) return;
      div.dataset.wired = "yes";
      div.on("plotly_click", (event) => {
        const point = event.points[0] && event.points[0].customdata;
        const to = point && address(drawn.get(div).places, point);
        if (to) location.assign(to);
      });
    });
  };
  const drawAll = (within) => {
    for (const script of within.querySelectorAll("script[data-for]")) {
      const div = $(script.dataset.for);
      if (!div) continue;
      drawn.set(div, JSON.parse(script.textContent));
      library().then(() => { if (div.isConnected) draw(div); }, (error) => trouble(error.message));
    }
  };
  const drawAgain = () => {
    for (const div of drawn.keys()) if (div.isConnected && div.dataset.drawn) draw(div); else if (!div.isConnected) drawn.delete(div);
  };

  // --- a view's state is its address: forms and links of one view change it without a new page ---
  const fetched = async (url) => {
    const response = await fetch(url, { headers: { Accept: "text/html" } });
    if (!(response.headers.get("content-type") || "").startsWith("text/html")) throw new Error(await response.text());
    return new DOMParser().parseFromString(await response.text(), "text/html");
  };
  const focusKey = (node) => [node.tagName, node.getAttribute("aria-label") || node.textContent].join();
  const view = () => location.pathname + location.search;
  let latest = 0;
  let shown = view();
  const show = async (url, { push = true } = {}) => {
    const mine = ++latest;
    main().classList.add("busy");
    try {
      const page = await fetched(url);
      if (mine !== latest) return;
      const active = document.activeElement;
      const within = main().contains(active);
      const focused = within && active.name ? [active.name, active.value] : null;
      const key = within && active !== main() && !focused ? focusKey(active) : null;
      const open = [...document.querySelectorAll("details[open] > summary")].map((one) => one.textContent);
      main().replaceWith(document.adoptNode(page.getElementById("main")));
      document.title = page.title;
      root.dataset.version = page.documentElement.dataset.version;
      if (push) history.pushState(null, "", url);
      shown = view();
      for (const summary of main().querySelectorAll("details > summary")) {
        if (open.includes(summary.textContent)) summary.parentElement.open = true;
      }
      if (within) {  // whoever uses the keyboard stays where they are
        const same = [...main().querySelectorAll("form.view [name]")].filter((one) => focused && one.name === focused[0]);
        const alike = key && [...main().querySelectorAll("a, button, summary, [tabindex]")].find((one) => focusKey(one) === key);
        const back = same.find((one) => one.value === focused[1]) || same[0] || alike || main();
        back.focus({ preventScroll: true });
      }
      trouble("");
      drawAll(main());
      tell("Updated");
    } catch (error) {
      if (mine === latest) trouble(error.message.trim().slice(0, 300) || "the server does not answer");
    } finally {
      if (mine === latest) main().classList.remove("busy");
    }
  };
  const addressOf = (form) => {
    const given = [...new FormData(form)].filter(([, value]) => value !== "");
    const words = new URLSearchParams(given).toString();
    return form.getAttribute("action") + (words ? "?" + words : "");
  };
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.id === "note") {
      event.preventDefault();
      keep(form.dataset.trial, form.elements.name.value, form.elements.note.value, form.elements.starred.checked)
        .then((line) => { $("kept").textContent = line || "kept"; });
    } else if (form.matches("form.view")) {
      event.preventDefault();
      show(addressOf(form));
    }
  });
  document.addEventListener("change", (event) => {
    const form = event.target.form;
    if (form && form.matches("form.view:not(.slow)")) show(addressOf(form));
  });
  document.addEventListener("input", (event) => {
    if (event.target.type === "range") {
      event.target.previousElementSibling.textContent = Number(event.target.value).toLocaleString("en");
      event.target.setAttribute("aria-valuetext", "generation " + event.target.value);
    }
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && !link.download &&
        link.origin === location.origin && link.pathname === location.pathname && !link.hash && link.closest("main")) {
      event.preventDefault();
      show(link.href);
      return;
    }
    const star = event.target.closest("button.star");
    if (star) {
      const starred = star.getAttribute("aria-pressed") !== "true";
      keep(star.dataset.trial, star.dataset.name, star.dataset.note, starred).then((line) => {
        if (line) return trouble(line);
        star.setAttribute("aria-pressed", String(starred));
        star.textContent = starred ? "★" : "☆";
        tell(starred ? "Starred" : "No longer starred");
      });
    }
    const copy = event.target.closest("button.copy");
    if (copy) {
      navigator.clipboard.writeText($(copy.dataset.copy).textContent)
        .then(() => { copy.textContent = "Copied"; }, () => { trouble("the browser does not allow copying; select it"); });
    }
  });
  // A token's numbers: by pointer it has a title, this is for keyboards and touch.
  const choose = (token) => {
    const line = $("token");
    for (const one of main().querySelectorAll(".token.chosen")) one.classList.remove("chosen");
    token.classList.add("chosen");
    line.textContent = `“${token.textContent}”: ${token.title}`;
    line.hidden = false;
  };
  document.addEventListener("click", (event) => {
    const token = event.target.closest(".tokens .token");
    if (token) choose(token);
  });
  document.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(".tokens")) return;
    const tokens = [...event.target.children];
    const place = tokens.findIndex((one) => one.matches(".chosen"));
    const next = tokens[place < 0 ? 0 : Math.min(Math.max(place + way, 0), tokens.length - 1)];
    event.preventDefault();
    next.scrollIntoView({ block: "nearest" });
    choose(next);
  });
  // A link within the page (to the content, to a heading) changes the address too, but not what is shown.
  addEventListener("popstate", () => { if (view() !== shown) show(location.href, { push: false }); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .plot, .scroll, .tokens")) return;
    const link = { ArrowLeft: "a[rel=prev]", ArrowRight: "a[rel=next]" }[event.key];
    if (link && main().querySelector(link)) { event.preventDefault(); main().querySelector(link).click(); }
    if (event.key === "/") {
      const field = main().querySelector("input[type=search]");
      if (field) { event.preventDefault(); field.focus(); }
    }
  });

  // --- notes ---
  const keep = async (trial, name, note, starred) => {
    try {
      const response = await fetch("/note", {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ trial, name, note, starred }),
      });
      if (response.ok) return "";
      const kind = response.headers.get("content-type") || "";
      return kind.startsWith("application/json") ? (await response.json()).line : await response.text();
    } catch { return "the server does not answer"; }
  };

  // --- what is new: parts of the page that are live are fetched again when anything has changed ---
  const POLL = 2500;
  let silent = 0;
  const follow = async () => {
    if (document.hidden) return;
    try {
      const response = await fetch("/changes");
      if (!response.ok) throw new Error(await response.text());
      const { version } = await response.json();
      if (silent) trouble("");
      silent = 0;
      if (String(version) === root.dataset.version || main().classList.contains("busy")) return;
      const mine = latest;
      const page = await fetched(location.href);
      if (mine !== latest) return;
      root.dataset.version = page.documentElement.dataset.version;
      for (const old of document.querySelectorAll("[data-live]")) {
        const now = page.getElementById(old.id);
        if (!now || old.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) continue;
        const before = old.dataset.was ||= digest(old);
        const after = digest(now);
        if (before === after) continue;
        replace(old, now, after);
      }
    } catch (error) {
      silent += 1;
      if (silent > 1) trouble("the server does not answer: what is shown stays as it was");
    }
  };
  const digest = (node) => {
    const copy = node.cloneNode(true);
    copy.querySelectorAll(".plot").forEach((div) => div.replaceChildren());
    return copy.textContent + [...copy.querySelectorAll("progress")].map((one) => one.value).join();
  };
  const replace = (old, now, after) => {
    // A figure that is drawn stays where it is, and is drawn anew from the new numbers.
    const scrolled = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    const open = [...old.querySelectorAll("details")].map((one) => one.open);
    const focus = old.contains(document.activeElement) ? focusKey(document.activeElement) : null;
    const fresh = document.adoptNode(now);
    for (const div of fresh.querySelectorAll(".plot")) {
      const there = $(div.id);
      if (there && old.contains(there) && there.dataset.drawn) div.replaceWith(there);
    }
    old.replaceWith(fresh);
    fresh.dataset.was = after;
    fresh.querySelectorAll(".scroll").forEach((one, k) => { one.scrollLeft = scrolled[k] || 0; });
    fresh.querySelectorAll("details").forEach((one, k) => { one.open = open[k] || false; });
    if (focus) {
      const back = [...fresh.querySelectorAll("a, button, [tabindex]")].find((one) => focusKey(one) === focus);
      if (back) back.focus({ preventScroll: true });
    }
    drawAll(fresh);
  };

  look.themed(drawAgain);
  drawAll(document);
  setInterval(follow, POLL);
  root.dataset.ready = "yes";
})();
