"use strict";
// What a page looks like, for the report and the live page alike: its theme, and figures in its colours.
const look = (() => {
  const root = document.documentElement;
  const css = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  };

  // A figure's layout with the page's colours, in the width that it has there.
  const layout = (div, figure) => {
    const narrow = div.clientWidth < 560;
    const axis = { gridcolor: css("--rule"), linecolor: css("--rule"), zerolinecolor: css("--rule") };
    return {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: css("--ink") },
      margin: { l: 50, r: 12, t: 16, b: 44 },
      legend: narrow || div.closest(".pair")
        ? { orientation: "h", y: -0.25, font: { size: 11 } } : { itemsizing: "constant" },
      hoverlabel: { align: "left" },
      xaxis: { ...figure.layout.xaxis, ...axis },
      yaxis: { ...figure.layout.yaxis, ...axis },
    };
  };

  // Light, dark, or as the machine is: kept by the browser; figures are drawn again when it changes.
  const themed = (drawAgain) => {
    const button = document.getElementById("theme");
    const themes = ["auto", "light", "dark"];
    const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
    const set = (theme) => {
      if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
      button.textContent = "Theme: " + theme;
      button.dataset.now = theme;
      try { localStorage.setItem("theme", theme); } catch { /* a page of a file may have no storage: it is forgotten */ }
      drawAgain();
    };
    button.addEventListener("click", () => set(themes[(themes.indexOf(button.dataset.now) + 1) % themes.length]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
    set(themes.includes(stored()) ? stored() : "auto");
  };
  return { layout, themed };
})();
