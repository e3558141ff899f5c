"use strict";
// Makes the charts of the report lively: hover, zoom, series on and off. Without it everything is there, and still.
// Keys on a chart: arrows move the cursor, + and - zoom, 0 shows all.
(() => {
  const root = document.documentElement;
  const source = document.getElementById("document");
  const report = JSON.parse(source.textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const SIDE = 1000;
  const SECOND = 1e9;
  const DAY = 86400 * SECOND;
  root.classList.add("js");

  // Units, as the tables have them.
  const count = (n) => Math.round(n).toLocaleString("en-US");
  const compact = (n) => n < 1e4 ? count(n) : n < 999500 ? `${(n / 1e3).toFixed(0)}k` : n < 999.5e6 ? `${(n / 1e6).toFixed(n < 9.95e6 ? 1 : 0)}M` : `${(n / 1e9).toFixed(0)}G`;
  const rate = (n) => n < 0.05 ? "0" : n < 9.95 ? n.toFixed(1) : count(n);
  const pad = (n) => String(n).padStart(2, "0");
  const length = (ns) => {
    for (const [unit, name] of [[1e9, "s"], [1e6, "ms"], [1e3, "us"]]) {
      if (ns >= unit * 0.9995 && ns < 100 * 1e9) {
        const value = ns / unit;
        return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0) + name;
      }
    }
    if (ns < 1e3) return `${Math.round(ns)}ns`;
    const s = Math.round(ns / 1e9);
    return s < 3600 ? `${Math.floor(s / 60)}m${pad(s % 60)}s` : s < 86400 ? `${Math.floor(s / 3600)}h${pad(Math.floor(s % 3600 / 60))}m` : `${Math.floor(s / 86400)}d${pad(Math.floor(s % 86400 / 3600))}h`;
  };
  // A number holds the nanoseconds of a day, not those since 1970; a Date holds milliseconds only.
  const beganMs = Date.parse(report.began_at) + Number(source.dataset.utcOffsetS) * 1e3;
  const midnightMs = Math.floor(beganMs / (DAY / 1e6)) * (DAY / 1e6);
  const belowMs = Number((/\.(\d+)/.exec(report.began_at)?.[1] ?? "").padEnd(9, "0").slice(3, 9));
  const beganNs = (beganMs - midnightMs) * 1e6 + belowMs; // since midnight
  const clock = (ns, step) => {
    const ms = midnightMs + Math.floor((beganNs + ns) / 1e6 + 0.5);
    const date = new Date(ms);
    let text = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}`;
    if (step < 60 * SECOND) text += `:${pad(date.getUTCSeconds())}`;
    if (report.traced_ns > DAY) text = `${date.getUTCDate()} ${date.toLocaleString("en", { month: "short", timeZone: "UTC" })}${step < DAY ? ` ${text}` : ""}`;
    if (step < SECOND) text += `.${String(date.getUTCMilliseconds()).padStart(3, "0").slice(0, step < SECOND / 10 ? 3 : 1)}`;
    return text;
  };

  // Marks on axes: [value, label].
  const CLOCK = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800];
  const roundStep = (span, most) => {
    const power = 10 ** Math.floor(Math.log10(span / most || 1));
    return [1, 2, 5, 10].map((n) => n * power).find((step) => span / step <= most);
  };
  const clockMarks = (from, to) => {
    const step = (CLOCK.find((s) => (to - from) / (s * SECOND) < 6) || 604800) * SECOND;
    const marks = [];
    for (let at = Math.ceil((beganNs + from) / step) * step - beganNs; at <= to; at += step) marks.push([at, clock(at, step)]);
    return marks;
  };
  const DECADES = [[1, "1ns"], [10, "10ns"], [100, "100ns"], [1e3, "1us"], [1e4, "10us"], [1e5, "100us"], [1e6, "1ms"], [1e7, "10ms"], [1e8, "100ms"],
    [1e9, "1s"], [1e10, "10s"], [6e10, "1m"], [6e11, "10m"], [3.6e12, "1h"], [8.64e13, "1d"], [2.592e15, "30d"]];
  const lengthMarks = (from, to, logarithmic) => {
    if (logarithmic) {
      const within = DECADES.filter(([at]) => at >= from && at <= to);
      if (within.length >= 2) return within.filter((_, n) => n % Math.ceil(within.length / 6) === 0);
    }
    const step = roundStep(to - from, 5);
    const marks = [];
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) marks.push([at, length(at)]);
    return marks;
  };

  // What a chart shows: curves over time, or bars over lengths.
  const curvesOf = (name) => {
    const { ts_ns: times, highest, entered } = report.timeline;
    if (name === "highest") return { times, of: (state) => highest[state], show: count };
    const ends = [];
    const lasts = [];
    let from = 0;
    times.forEach((ts, n) => {
      if (ts - from >= SECOND) { ends.push(ts); lasts.push(n); from = ts; }
    });
    const of = (state) => ends.map((ts, n) => {
      let sum = 0;
      for (let i = n ? lasts[n - 1] + 1 : 0; i <= lasts[n]; i++) sum += entered[state][i];
      return sum / ((ts - (n ? ends[n - 1] : 0)) / SECOND);
    });
    return { times: ends, of, show: rate };
  };

  const timeCharts = [];

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.plot = figure.querySelector(".plot");
      this.drawn = figure.querySelector(".drawn");
      this.grid = figure.querySelector(".grid");
      this.xs = figure.querySelector("svg.x");
      this.ys = figure.querySelector("svg.y");
      this.cursor = this.add("cursor");
      this.brush = this.add("brush");
      this.tip = this.add("tip");
      this.controls();
      this.listen();
    }

    add(name) {
      const element = document.createElement("div");
      element.className = name;
      element.hidden = true;
      this.plot.append(element);
      return element;
    }

    controls() {
      const bar = document.createElement("div");
      bar.className = "controls";
      const button = (text, label, act) => {
        const element = document.createElement("button");
        element.type = "button";
        element.textContent = text;
        element.setAttribute("aria-label", label);
        element.title = label;
        element.addEventListener("click", () => act(element));
        bar.append(element);
        return element;
      };
      button("+", "Zoom in", () => this.zoomBy(0.5)).dataset.act = "in";
      button("\u2212", "Zoom out", () => this.zoomBy(2)).dataset.act = "out";
      this.all = button("All", "Show all", () => this.zoom(...this.whole));
      this.all.dataset.act = "all";
      this.all.disabled = true;
      const scale = button("Log", "Logarithmic height", (element) => {
        this.logUp = !this.logUp;
        element.setAttribute("aria-pressed", String(this.logUp));
        this.draw();
      });
      scale.dataset.act = "scale";
      scale.setAttribute("aria-pressed", "false");
      const hint = document.createElement("span");
      hint.textContent = "Drag to zoom, double-click to show all. A click on a name hides it, with Shift all others.";
      bar.append(hint);
      this.figure.append(bar);
    }

    listen() {
      let start = null;
      const at = (event) => {
        const box = this.plot.getBoundingClientRect();
        return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      };
      this.plot.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        start = at(event);
        this.plot.setPointerCapture(event.pointerId);
      });
      this.plot.addEventListener("pointermove", (event) => {
        const part = at(event);
        this.hover(part);
        if (start !== null) {
          this.brush.hidden = Math.abs(part - start) < 0.005;
          this.brush.style.left = `${Math.min(part, start) * 100}%`;
          this.brush.style.width = `${Math.abs(part - start) * 100}%`;
        }
      });
      this.plot.addEventListener("pointerup", (event) => {
        const part = at(event);
        if (start !== null && Math.abs(part - start) >= 0.005) {
          this.zoom(this.value(Math.min(part, start)), this.value(Math.max(part, start)));
        }
        start = null;
        this.brush.hidden = true;
      });
      this.plot.addEventListener("pointercancel", () => { start = null; this.brush.hidden = true; });
      this.plot.addEventListener("pointerleave", () => this.leave());
      this.plot.addEventListener("blur", () => this.leave());
      this.plot.addEventListener("dblclick", () => this.zoom(...this.whole));
      this.plot.addEventListener("keydown", (event) => {
        const acts = {
          ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), "+": () => this.zoomBy(0.5), "-": () => this.zoomBy(2),
          0: () => this.zoom(...this.whole), Escape: () => this.leave(),
        };
        if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
      });
    }

    // From a value along the axis to its place in 0..1, and back.
    place(value) { return (this.along(value) - this.along(this.range[0])) / (this.along(this.range[1]) - this.along(this.range[0])); }
    value(part) { return this.back(this.along(this.range[0]) + part * (this.along(this.range[1]) - this.along(this.range[0]))); }
    along(value) { return this.logAlong ? Math.log2(Math.max(1, value)) : value; }
    back(value) { return this.logAlong ? 2 ** value : value; }

    zoom(from, to) {
      const most = this.whole;
      const least = this.narrowest;
      if (to - from < least) { const middle = (from + to) / 2; from = middle - least / 2; to = middle + least / 2; }
      this.setRange([Math.max(most[0], from), Math.min(most[1], to)]);
    }

    zoomBy(factor) {
      const middle = this.focus === undefined ? 0.5 : Math.min(1, Math.max(0, this.place(this.focus)));
      this.zoom(this.value(middle - middle * factor), this.value(middle + (1 - middle) * factor));
    }

    setRange(range) {
      this.range = range;
      this.all.disabled = range[0] <= this.whole[0] && range[1] >= this.whole[1];
      this.draw();
      this.leave();
    }

    up(value, top) { return this.logUp ? Math.log10(1 + value) / Math.log10(1 + top) : value / top; }

    // Both axes: the marks along, and those up to at least `most`; returns the top.
    axes(most, along) {
      let top;
      let ups;
      if (this.logUp) {
        top = 10 ** Math.ceil(Math.log10(1 + most)) - 1 || 1;
        ups = [0];
        for (let at = 1; at <= top; at *= 10) ups.push(at);
      } else {
        const step = Math.max(1, roundStep(Math.max(1, most), 5));
        top = Math.ceil(Math.max(1, most) / step) * step;
        ups = Array.from({ length: Math.round(top / step) + 1 }, (_, n) => n * step);
      }
      const lines = [];
      this.ys.replaceChildren(...ups.map((value) => {
        const y = 1 - this.up(value, top);
        lines.push(`M0 ${y * SIDE}H${SIDE}`);
        return this.label("100%", `${y * 100}%`, compact(value));
      }));
      this.xs.replaceChildren(...along.map(([value, text]) => {
        const x = this.place(value);
        lines.push(`M${x * SIDE} 0V${SIDE}`);
        return this.label(`${x * 100}%`, "1em", text);
      }));
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", lines.join(""));
      this.grid.replaceChildren(path);
      return top;
    }

    label(x, y, text) {
      const element = document.createElementNS(SVG, "text");
      element.setAttribute("x", x);
      element.setAttribute("y", y);
      element.textContent = text;
      return element;
    }

    // Shows `rows` of [name, number] beside the cursor at `value`.
    point(value, title, rows) {
      const part = this.place(value);
      this.focus = value;
      this.cursor.hidden = this.tip.hidden = false;
      this.cursor.style.left = `${part * 100}%`;
      const head = document.createElement("b");
      head.textContent = title;
      this.tip.replaceChildren(head, ...rows.map((cells) => {
        const row = document.createElement("div");
        row.append(...cells.map((text) => { const cell = document.createElement("span"); cell.textContent = text; return cell; }));
        return row;
      }));
      const room = this.plot.clientWidth;
      const width = this.tip.offsetWidth;
      const x = part * room;
      this.tip.style.left = `${Math.max(0, x + 12 + width > room ? x - 12 - width : x + 12)}px`;
      this.plot.setAttribute("aria-label", `${title}: ${rows.map((cells) => cells.join(" ")).join(", ")}`);
    }

    leave() {
      this.cursor.hidden = this.tip.hidden = true;
      this.focus = undefined;
    }
  }

  class TimeChart extends Chart {
    constructor(figure) {
      super(figure);
      Object.assign(this, curvesOf(figure.dataset.chart));
      this.whole = this.range = [0, report.traced_ns];
      this.narrowest = Math.min(report.traced_ns, Math.max(1e6, 4 * report.timeline.interval_ns));
      this.curves = [...this.drawn.querySelectorAll(".curve")].map((path) => {
        const state = [...path.classList].find((name) => name.startsWith("s-")).slice(2);
        const button = figure.querySelector(`button[data-state="${state}"]`);
        const curve = { state, path, values: this.of(state), shown: true };
        button.addEventListener("click", (event) => {
          if (event.shiftKey || event.altKey) {
            const alone = this.curves.every((other) => other.shown === (other === curve));
            this.curves.forEach((other) => { other.shown = alone || other === curve; });
          } else {
            curve.shown = !curve.shown;
          }
          this.curves.forEach((other) => figure.querySelector(`button[data-state="${other.state}"]`).setAttribute("aria-pressed", String(other.shown)));
          this.draw();
        });
        return curve;
      });
      this.incidents = [...this.drawn.querySelectorAll(".incident")];
      timeCharts.push(this);
    }

    setRange(range) {
      timeCharts.forEach((chart) => Chart.prototype.setRange.call(chart, range));
    }

    // The first and the last point to draw: one outside on each side.
    visible() {
      const first = this.times.findIndex((ts) => ts >= this.range[0]);
      let last = this.times.findIndex((ts) => ts > this.range[1]);
      if (last < 0) last = this.times.length - 1;
      return [Math.max(0, first - 1), last];
    }

    draw() {
      const [first, last] = this.visible();
      let most = 0;
      for (const curve of this.curves.filter((curve) => curve.shown)) {
        for (let n = first; n <= last; n++) most = Math.max(most, curve.values[n]);
      }
      const top = this.axes(Math.ceil(most), clockMarks(...this.range));
      for (const { path, values, shown } of this.curves) {
        let d = "";
        for (let n = first; shown && n <= last; n++) {
          d += `${d ? "L" : "M"}${(this.place(this.times[n]) * SIDE).toFixed(1)} ${((1 - this.up(values[n], top)) * SIDE).toFixed(1)}`;
        }
        path.setAttribute("d", d);
      }
      for (const path of this.incidents) path.setAttribute("d", `M${(this.place(Number(path.dataset.ts)) * SIDE).toFixed(1)} 0V${SIDE}`);
    }

    hover(part) {
      if (!this.times.length) return;
      const value = this.value(part);
      let n = this.times.findIndex((ts) => ts >= value);
      if (n < 0) n = this.times.length - 1;
      if (n > 0 && value - this.times[n - 1] < this.times[n] - value) n -= 1;
      this.show_at(n);
      timeCharts.filter((chart) => chart !== this).forEach((chart) => {
        chart.cursor.hidden = false;
        chart.cursor.style.left = `${chart.place(this.times[n]) * 100}%`;
      });
    }

    show_at(n) {
      this.n = n;
      const rows = this.curves.filter((curve) => curve.shown).map((curve) => [curve.state, curve.values[n]]);
      rows.sort((a, b) => b[1] - a[1]);
      const step = report.timeline.interval_ns < SECOND ? SECOND / 10 : SECOND;
      this.point(this.times[n], clock(this.times[n], step), rows.map(([state, value]) => [state, this.show(value)]));
    }

    step(by) {
      const n = this.focus === undefined ? this.visible()[0] : this.n + by;
      this.show_at(Math.min(this.times.length - 1, Math.max(0, n)));
    }

    leave() {
      timeCharts.forEach((chart) => Chart.prototype.leave.call(chart));
      super.leave();
    }
  }

  class Histogram extends Chart {
    constructor(figure) {
      super(figure);
      this.histogram = report.histograms[Number(figure.dataset.index)];
      this.bars = this.histogram.buckets;
      this.logAlong = this.histogram.scale === "logarithmic";
      this.whole = this.range = [this.bars[0][0], this.bars[this.bars.length - 1][1] + 1];
      this.narrowest = Math.min(this.whole[1] - this.whole[0], 3 * (this.bars[0][1] + 1 - this.bars[0][0]));
      this.path = this.drawn.querySelector(".bars");
      this.quantiles = [["p50", "p50_ns"], ["p99", "p99_ns"]].map(([name, of]) => [this.drawn.querySelector(`.${name}`), this.histogram[of]]);
    }

    draw() {
      const shown = this.bars.filter(([from, to]) => to >= this.range[0] && from <= this.range[1]);
      const top = this.axes(shown.reduce((most, bar) => Math.max(most, bar[2]), 0), lengthMarks(...this.range, this.logAlong));
      const x = (value) => (this.place(value) * SIDE).toFixed(1);
      this.path.setAttribute("d", shown.map(([from, to, n]) => `M${x(from)} ${SIDE}V${((1 - this.up(n, top)) * SIDE).toFixed(1)}H${x(to + 1)}V${SIDE}`).join(""));
      for (const [path, value] of this.quantiles) path.setAttribute("d", `M${x(value)} 0V${SIDE}`);
    }

    hover(part) {
      const value = this.value(part);
      const distance = ([from, to]) => value < from ? this.along(from) - this.along(value) : value > to ? this.along(value) - this.along(to) : 0;
      let nearest = 0;
      this.bars.forEach((bar, n) => { if (distance(bar) < distance(this.bars[nearest])) nearest = n; });
      this.show_at(nearest);
    }

    show_at(n) {
      this.n = n;
      const [from, to, many] = this.bars[n];
      const below = this.bars.slice(0, n + 1).reduce((sum, bar) => sum + bar[2], 0);
      const percent = (part) => `${(part * 100 / this.histogram.count).toFixed(1)} %`;
      const middle = this.back((this.along(from) + this.along(to + 1)) / 2);
      this.point(middle, `${length(from)} to ${length(to + 1)}`, [["dwells", count(many)], ["of all", percent(many)], ["up to here", percent(below)]]);
    }

    step(by) {
      this.show_at(Math.min(this.bars.length - 1, Math.max(0, this.focus === undefined ? 0 : this.n + by)));
    }
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    if (figure.dataset.chart === "histogram") new Histogram(figure); else new TimeChart(figure);
  }

  // A click on a function of a flame graph shows it over the full width, with its callers and those that it calls.
  for (const flame of document.querySelectorAll("svg.flame")) {
    const cells = [...flame.children].map((cell) => ({ cell, x: parseFloat(cell.getAttribute("x")), width: parseFloat(cell.getAttribute("width")) }));
    for (const { cell, x, width } of cells) {
      cell.addEventListener("click", () => {
        for (const other of cells) {
          const from = Math.max(0, (other.x - x) * 100 / width);
          const to = Math.min(100, (other.x + other.width - x) * 100 / width);
          other.cell.setAttribute("x", `${from}%`);
          other.cell.setAttribute("width", `${Math.max(0, to - from)}%`);
        }
      });
    }
  }

  const theme = document.getElementById("theme");
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
})();
