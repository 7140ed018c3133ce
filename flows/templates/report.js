"use strict";
(() => {
  const SVG = document.getElementById("drawing").namespaceURI;
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const parameters = JSON.parse(document.getElementById("parameters").textContent);
  const area = document.getElementById("job");
  const rows = [...document.querySelectorAll("#jobs tr")];
  let stop = () => {};

  // Every text of a catalogue goes through textContent: nothing that people wrote becomes markup.
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") element.textContent = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  function draw(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }
  const short = (value) => (value === null || value === undefined ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : String(+value.toPrecision(3)));

  function unpack(series) {
    const bytes = atob(series.levels);
    const span = series.high - series.low || 1;
    return Array.from(bytes, (c) => (c.charCodeAt(0) === 255 ? null : series.low + (span * c.charCodeAt(0)) / 254));
  }

  function clock(job) {
    const list = job.times.list;
    const step = job.times.step;
    const start = (frame) => {
      if (!list) return frame * step;
      // A long video of variable frame rate tells the times of every few frames only.
      const place = frame / job.times.stride, k = Math.min(Math.floor(place), list.length - 2);
      return list[k] + (list[k + 1] - list[k]) * (place - k);
    };
    return {
      start,
      // The middle of a frame, so that rounding never shows its neighbour.
      seconds: (frame) => (list ? (frame + 1 < job.frames ? (start(frame) + start(frame + 1)) / 2 : start(frame) + step / 2) : (frame + 0.5) * step),
      frame: (seconds) => {
        if (!list) return Math.floor(seconds / step + 1e-4);
        let low = 0, high = job.frames - 1;
        while (low < high) {
          const middle = (low + high + 1) >> 1;
          if (start(middle) <= seconds + 1e-4) low = middle; else high = middle - 1;
        }
        return low;
      },
    };
  }

  function players(job) {
    const videos = [];
    const box = make("div", { class: "players" });
    for (const [role, title, address] of [["target", "Target", job.target], ["source", "Source", job.source], ["result", "Result", job.output]]) {
      const media = job.media[role];
      const figure = make("figure", { "data-role": role });
      if (media && media.kind === "video") {
        const video = make("video", { src: media.address, preload: "auto", playsinline: true, muted: role !== "result", tabindex: "-1", "aria-label": title });
        video.muted = role !== "result";
        videos.push({ role, video });
        figure.append(video);
      } else if (media && media.kind === "picture") {
        figure.append(make("img", { src: media.address, alt: title }));
      } else {
        figure.append(make("div", { class: "nothing", text: `${title}: nothing to show here` }));
      }
      const caption = make("figcaption", {}, make("strong", { text: title }), ` ${address || ""}`);
      if (role === "result" && job.output_link) caption.append(" ", make("a", { href: job.output_link, text: "open the file" }));
      figure.append(caption);
      box.append(figure);
    }
    return { box, videos };
  }

  function ranges(list, kind, frames, into, height) {
    for (const [start, end] of list) into.append(draw("rect", { class: kind, x: start, y: 0, width: Math.max(end - start, frames / 500), height }));
  }

  function plotOf(plot, job, control) {
    const series = job.series[plot.column];
    const values = unpack(series);
    const frames = Math.max(job.frames, 1);
    const height = 100;
    const low = plot.better === "low" ? Math.min(0, series.low) : series.low;
    const high = series.high > low ? series.high : low + 1;
    const y = (value) => height - 4 - ((value - low) / (high - low)) * (height - 8);
    const svg = draw("svg", { viewBox: `0 0 ${frames} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${plot.title} over the frames` });
    ranges(job.kept, "kept", frames, svg, height);
    ranges(job.flagged, "flagged", frames, svg, height);
    svg.append(draw("line", { class: "axis", x1: 0, x2: frames, y1: height - 4, y2: height - 4 }));
    let path = "", pen = false;
    values.forEach((value, k) => {
      if (value === null) { pen = false; return; }
      path += `${pen ? "L" : "M"}${Math.min(k * series.step + series.step / 2, frames)} ${y(value).toFixed(1)}`;
      pen = true;
    });
    // A measured frame between unmeasured ones is a dot, not nothing.
    const isolated = values.map((value, k) => value !== null && (values[k - 1] ?? null) === null && (values[k + 1] ?? null) === null ? k : -1).filter((k) => k >= 0);
    for (const k of isolated) path += `M${k * series.step} ${y(values[k]).toFixed(1)}h${Math.max(series.step, frames / 300)}`;
    svg.append(draw("path", { class: "curve", d: path }));
    const head = draw("line", { class: "head", x1: 0, x2: 0, y1: 0, y2: height });
    const hover = draw("line", { class: "hover", x1: 0, x2: 0, y1: 0, y2: height, visibility: "hidden" });
    svg.append(head, hover);
    const reading = make("span", { class: "numbers" });
    const at = (event) => {
      const box = svg.getBoundingClientRect();
      return Math.max(0, Math.min(frames - 1, Math.floor(((event.clientX - box.left) / box.width) * frames)));
    };
    svg.addEventListener("pointermove", (event) => {
      const frame = at(event);
      hover.setAttribute("x1", frame + 0.5);
      hover.setAttribute("x2", frame + 0.5);
      hover.setAttribute("visibility", "visible");
      const first = frame - (frame % series.step);
      reading.textContent = `${series.step > 1 ? `frames ${first}–${Math.min(first + series.step, frames) - 1}, worst` : `frame ${frame}`}: ${short(values[Math.floor(frame / series.step)])}`;
    });
    svg.addEventListener("pointerleave", () => { reading.textContent = ""; hover.setAttribute("visibility", "hidden"); });
    svg.addEventListener("click", (event) => control.seek(at(event)));
    control.heads.push((frame) => { head.setAttribute("x1", frame + 0.5); head.setAttribute("x2", frame + 0.5); });
    return make("div", { class: "plot", "data-column": plot.column },
      make("h4", { text: plot.title }), make("span", { class: "faint", text: plot.unit }), svg,
      make("div", { class: "scale" }, make("span", { text: `${short(low)} to ${short(high)}` }), reading, make("span", { text: `${frames} frames` })));
  }

  function strip(job, control) {
    const box = make("div", { class: "strip", title: "Click to go there", "aria-hidden": "true" });
    for (const [kind, list] of [["kept", job.kept], ["flagged", job.flagged]]) {
      for (const [start, end, reason] of list) {
        box.append(make("i", { class: kind, style: `left:${(100 * start) / job.frames}%;width:${(100 * (end - start)) / job.frames}%`, title: reason || "the target's own frames" }));
      }
    }
    box.addEventListener("click", (event) => {
      const edge = box.getBoundingClientRect();
      control.seek(Math.floor(((event.clientX - edge.left) / edge.width) * job.frames));
    });
    return box;
  }

  function thumbnails(job, control, source) {
    const list = make("ul", { class: "flags" });
    const wanted = job.flagged.slice(0, 24);
    const canvases = [];
    for (const [start, end, reason] of wanted) {
      const canvas = make("canvas", { width: 312, height: 176 });
      const frames = end - start > 1 ? `frames ${start}–${end - 1}` : `frame ${start}`;
      list.append(make("li", {}, make("button", { type: "button", onclick: () => control.seek(start) }, source ? canvas : null,
        make("span", { class: "numbers", text: frames }), make("br"), make("span", { class: "faint", text: reason.split(",").join(", ").replaceAll("_", " ") }))));
      canvases.push([start + ((end - start) >> 1), canvas]);
    }
    if (job.flagged.length > wanted.length) list.append(make("li", { class: "faint", text: `and ${job.flagged.length - wanted.length} more, marked in the plots` }));
    let running = true;
    if (source) {
      const reader = make("video", { src: source, muted: true, preload: "auto" });
      reader.muted = true;
      const next = () => {
        const item = running && canvases.shift();
        if (!item) { reader.removeAttribute("src"); return; }
        reader.addEventListener("seeked", () => {
          const [, canvas] = item;
          const scale = Math.min(canvas.width / reader.videoWidth, canvas.height / reader.videoHeight);
          const width = reader.videoWidth * scale, height = reader.videoHeight * scale;
          canvas.getContext("2d").drawImage(reader, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
          canvas.dataset.frame = item[0];
          next();
        }, { once: true });
        reader.currentTime = control.time.seconds(item[0]);
      };
      reader.addEventListener("loadeddata", next, { once: true });
    }
    return { list, stop: () => { running = false; } };
  }

  function table(entries) {
    const body = make("tbody");
    for (const [name, value] of entries) body.append(make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: value })));
    return make("table", {}, body);
  }

  function transport(job, videos, control) {
    const play = make("button", { type: "button", id: "play", text: "Play", "aria-label": "Play or pause" });
    const scrub = make("input", { type: "range", id: "scrub", min: 0, max: Math.max(job.frames - 1, 0), value: 0, step: 1, "aria-label": "Frame" });
    const place = make("output", { for: "scrub" });
    const speed = make("select", { "aria-label": "Speed" }, ...["0.25", "0.5", "1", "2"].map((value) => make("option", { value, text: `${value}×`, selected: value === "1" })));
    const sound = make("button", { type: "button", text: "Sound", "aria-pressed": "true" });
    const master = (videos.find((item) => item.role === "result") || videos.find((item) => item.role === "target") || videos[0] || {}).video;
    let frame = 0, timer = 0, shown = -1;
    const show = () => {
      if (frame === shown) return;
      shown = frame;
      scrub.value = frame;
      place.textContent = `frame ${frame} of ${job.frames}, ${control.time.start(frame).toFixed(2)} s`;
      for (const head of control.heads) head(frame);
    };
    control.seek = (wanted) => {
      frame = Math.max(0, Math.min(job.frames - 1, wanted));
      for (const { video } of videos) video.currentTime = Math.min(control.time.seconds(frame), Math.max((video.duration || 1e9) - 1e-3, 0));
      show();
    };
    const tick = () => {
      frame = Math.max(0, Math.min(job.frames - 1, control.time.frame(master.currentTime)));
      for (const { video } of videos) {
        if (video !== master && !video.ended && Math.abs(video.currentTime - master.currentTime) > 0.06) video.currentTime = master.currentTime;
      }
      show();
      if (!master.paused && !master.ended) timer = requestAnimationFrame(tick);
    };
    const pause = () => { for (const { video } of videos) video.pause(); play.textContent = "Play"; cancelAnimationFrame(timer); };
    control.toggle = () => {
      if (!master) return;
      if (!master.paused) { pause(); return; }
      if (master.ended || frame >= job.frames - 1) control.seek(0);
      for (const { video } of videos) video.play().catch(() => {});
      play.textContent = "Pause";
      timer = requestAnimationFrame(tick);
    };
    if (master) master.addEventListener("ended", () => { pause(); frame = job.frames - 1; show(); });
    play.addEventListener("click", control.toggle);
    scrub.addEventListener("input", () => { pause(); control.seek(+scrub.value); });
    speed.addEventListener("change", () => { for (const { video } of videos) video.playbackRate = +speed.value; });
    sound.addEventListener("click", () => { master.muted = !master.muted; sound.setAttribute("aria-pressed", String(!master.muted)); });
    const step = (by) => make("button", { type: "button", text: by < 0 ? "‹" : "›", "aria-label": by < 0 ? "Previous frame" : "Next frame", onclick: () => { pause(); control.seek(frame + by); } });
    control.step = (by) => { pause(); control.seek(frame + by); };
    show();
    return { box: make("div", { class: "transport" }, play, step(-1), step(1), scrub, place, speed, master ? sound : null), pause };
  }

  function open(number, scroll) {
    stop();
    const job = JSON.parse(document.getElementById(`data-${number}`).textContent);
    for (const row of rows) row.setAttribute("aria-current", String(row.dataset.job === String(number)));
    area.replaceChildren();
    const verdict = job.verdict || {};
    const grade = job.status === "failed" ? "failed" : verdict.grade || job.status;
    area.append(make("h2", {}, job.id, " ", make("span", { class: `badge ${grade}`, text: grade })));
    if (job.failure) {
      area.append(make("div", { class: "failure" }, make("p", { text: job.failure.message }), job.failure.remedy ? make("p", { class: "remedy", text: job.failure.remedy }) : null));
    }
    for (const reason of verdict.reasons || []) area.append(make("p", { text: reason }));
    for (const note of job.notes) area.append(make("p", { class: "faint", text: note }));
    const control = { heads: [], seek: () => {}, toggle: () => {}, step: () => {}, time: clock(job) };
    const { box, videos } = players(job);
    let shown = { list: null, stop: () => {} }, pause = () => {};
    if (Object.keys(job.media).length) {
      area.append(box);
      if (job.frames > 0) {
        const bar = transport(job, videos, control);
        pause = bar.pause;
        area.append(bar.box, strip(job, control));
        area.append(make("p", { class: "legend" },
          "Colours: ", make("i", { style: "background:var(--flag)" }), "worth a look", make("i", { style: "background:var(--kept)" }), "the target's own frame, kept",
          `. Keys: space plays, arrows step.`));
      }
    }
    if (job.flagged.length) {
      const result = job.media.result && job.media.result.kind === "video" ? job.media.result.address : null;
      shown = thumbnails(job, control, result);
      area.append(make("h3", { text: "Frames worth a look" }), shown.list);
    }
    const drawn = plots.filter((plot) => job.series[plot.column]);
    if (drawn.length) {
      area.append(make("h3", { text: "Measures" }), make("div", { class: "plots" }, ...drawn.map((plot) => plotOf(plot, job, control))));
    }
    const facts = make("div", { class: "facts" });
    const frames = verdict.frames || {};
    const summary = [["Source", job.source], ["Target", job.target], ["Rights", job.rights], ["Result", job.output || "–"]];
    for (const [name, count] of Object.entries(frames)) summary.push([`Frames ${name}`, String(count)]);
    for (const [name, value] of Object.entries(verdict.means || {})) {
      const worst = (verdict.worst || {})[name];
      const title = (plots.find((plot) => plot.column === name) || { title: name.replaceAll("_", " ") }).title;
      summary.push([`${title}, mean (worst twentieth)`, `${short(value)} (${short(worst)})`]);
    }
    facts.append(make("div", {}, make("h3", { text: "Job" }), table(summary)));
    const spent = Object.entries(job.seconds);
    if (spent.length) facts.append(make("div", {}, make("h3", { text: "Work per stage" }), table(spent.map(([name, value]) => [name, `${value.toFixed(1)} s`]))));
    if (Object.keys(job.provenance).length) facts.append(make("div", {}, make("h3", { text: "Provenance" }), table(Object.entries(job.provenance))));
    const chosen = Object.entries(parameters[job.parameters]);
    if (chosen.length) facts.append(make("div", {}, make("h3", { text: "Parameters" }), table(chosen)));
    area.append(facts);
    const keys = (event) => {
      if (event.target.closest("input, select, button, a, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === " ") { event.preventDefault(); control.toggle(); }
      if (event.key === "ArrowLeft") control.step(-1);
      if (event.key === "ArrowRight") control.step(1);
    };
    document.addEventListener("keydown", keys);
    stop = () => { pause(); shown.stop(); document.removeEventListener("keydown", keys); for (const { video } of videos) video.removeAttribute("src"); };
    history.replaceState(null, "", `#${encodeURIComponent(job.id)}`);
    if (scroll) area.scrollIntoView({ behavior: "smooth", block: "start" });
  }

  for (const row of rows) row.addEventListener("click", () => open(row.dataset.job, true));

  const search = document.getElementById("filter");
  const states = [...document.querySelectorAll("#states button")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = states.filter((button) => button.getAttribute("aria-pressed") === "true").map((button) => button.dataset.state);
    let count = 0;
    rows.forEach((row, k) => {
      const own = row.dataset.state.split(" ");
      const shown = words.every((word) => texts[k].includes(word)) && (!wanted.length || wanted.some((state) => own.includes(state)));
      row.hidden = !shown;
      count += shown;
    });
    document.getElementById("shown").textContent = count === rows.length ? "" : `${count} of ${rows.length} shown`;
  }
  search.addEventListener("input", filter);
  for (const button of states) {
    button.addEventListener("click", () => { button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true")); filter(); });
  }

  let asked = "";
  try { asked = decodeURIComponent(location.hash.slice(1)); } catch { asked = ""; }
  const first = rows.find((row) => row.querySelector(".open").textContent === asked) || rows.find((row) => !row.dataset.state.startsWith("failed") && !row.dataset.state.startsWith("skipped")) || rows[0];
  if (first) open(first.dataset.job, Boolean(asked));
})();
