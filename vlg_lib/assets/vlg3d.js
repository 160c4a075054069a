/* Draws the 3D figures of vlg_lib.viz: point clouds coloured by class, by colour, or by an argmax that the reader masks.
 *
 * A figure is <figure class="vlg3d"> with a poster image and one <script type="application/json" class="vlg3d-data">.
 * It is drawn when it scrolls into view and purged when it leaves, so that a page never holds more than MAX_LIVE WebGL
 * contexts. No network: plotly is read from the folder of this file, or is already on the page (stand-alone pages).
 */
(function () {
  "use strict";
  if (window.VLG3D) return;

  const MAX_LIVE = 8;
  const UNLABELLED = 255;
  const here = (document.currentScript && document.currentScript.src) || "";
  const live = [];
  let plotly = null;

  function loadPlotly() {
    if (window.Plotly) return Promise.resolve(window.Plotly);
    if (!plotly) {
      plotly = new Promise(function (resolve, reject) {
        const script = document.createElement("script");
        script.src = window.VLG3D_PLOTLY || new URL("plotly-gl3d.min.js", here).href;
        script.onload = () => resolve(window.Plotly);
        script.onerror = () => reject(new Error("cannot load " + script.src));
        document.head.appendChild(script);
      });
    }
    return plotly;
  }

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl") || canvas.getContext("experimental-webgl");
    if (!gl) return false;
    const lose = gl.getExtension("WEBGL_lose_context");
    if (lose) lose.loseContext();
    return true;
  }

  function bytes(base64) {
    const text = atob(base64);
    const out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out;
  }

  /* Typed arrays are little endian on every machine that browsers run on. */
  function decode(data) {
    const raw = new Int16Array(bytes(data.points).buffer);
    const n = raw.length / 3;
    const axes = [0, 1, 2].map(function (axis) {
      const out = new Float32Array(n);
      for (let i = 0; i < n; i++) out[i] = raw[3 * i + axis] * data.unit + data.center[axis];
      return out;
    });
    return {
      n: n, x: axes[0], y: axes[1], z: axes[2],
      labels: data.labels ? bytes(data.labels) : null,
      colors: data.colors ? bytes(data.colors) : null,
      logits: data.logits ? bytes(data.logits) : null,
      seen: data.seen ? bytes(data.seen) : null,
    };
  }

  /* The paper's mask: classes that the scene does not contain cannot win the argmax. */
  function maskedArgmax(logits, seen, classes, allowed) {
    const n = seen.length;
    const out = new Uint8Array(n).fill(UNLABELLED);
    const kept = [];
    for (let k = 0; k < classes; k++) if (allowed[k]) kept.push(k);
    for (let i = 0; i < n; i++) {
      if (!seen[i]) continue;
      let best = UNLABELLED, bestValue = -1;
      for (const k of kept) {
        const value = logits[i * classes + k];
        if (value > bestValue) { bestValue = value; best = k; }
      }
      out[i] = best;
    }
    return out;
  }

  function element(tag, attributes, parent, text) {
    const node = document.createElement(tag);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  class Figure {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector(".vlg3d-data").textContent);
      this.stage = root.querySelector(".vlg3d-stage");
      this.poster = root.querySelector(".vlg3d-poster");
      this.alt = this.poster.getAttribute("alt");
      this.cloud = null;
      this.camera = null;
      this.view = this.data.logits || this.data.labels ? "labels" : "colors";
      this.cut = this.data.cut;
      this.allowed = (this.data.scene_labels || []).slice();
      this.setState("waiting");
      this.addControls();
    }

    setState(state) { this.root.dataset.state = state; }

    decoded() {
      if (!this.cloud) {
        this.cloud = decode(this.data);
        if (this.cloud.logits) this.think();
        this.count();
      }
      return this.cloud;
    }

    think() {
      this.cloud.labels = maskedArgmax(this.cloud.logits, this.cloud.seen, this.data.names.length, this.allowed);
    }

    get labels() { return this.decoded().labels; }

    /* ---- controls: plain buttons and boxes, in reading order after the picture ---- */
    addControls() {
      const bar = element("div", { class: "vlg3d-bar" });
      this.stage.after(bar);
      const button = (text, label, action) => {
        const node = element("button", { type: "button", "aria-label": label, title: label }, bar, text);
        node.addEventListener("click", action);
      };
      button("+", "Zoom in", () => this.move(0, 0, 0.85));
      button("\u2212", "Zoom out", () => this.move(0, 0, 1.18));
      button("\u27f2", "Reset the view", () => this.reset());
      const [low, high] = [this.data.bounds[0][2], this.data.bounds[1][2]];
      if (this.data.cut !== null) {
        const label = element("label", { class: "vlg3d-cut" }, bar, "Cut above ");
        const slider = element("input", { type: "range", min: low, max: high, step: (high - low) / 50 || 1 }, label);
        slider.value = this.cut;
        const value = element("span", {}, label, this.cut.toFixed(1) + " m");
        slider.addEventListener("input", () => {
          this.cut = Number(slider.value);
          value.textContent = this.cut.toFixed(1) + " m";
          this.redraw();
        });
      }
      if (this.data.colors && (this.data.labels || this.data.logits)) {
        const toggle = element("button", { type: "button", "aria-pressed": "false" }, bar, "Camera colours");
        toggle.addEventListener("click", () => {
          this.view = this.view === "colors" ? "labels" : "colors";
          toggle.setAttribute("aria-pressed", String(this.view === "colors"));
          this.redraw();
        });
      }
      if (this.data.logits) this.addTags();
    }

    addTags() {
      const list = this.root.querySelector(".vlg3d-legend");
      const set = element("fieldset", { class: "vlg3d-tags" });
      element("legend", {}, set, "Scene tags: this room contains \u2026");
      this.boxes = this.data.names.map((name, k) => {
        const label = element("label", {}, set);
        const box = element("input", { type: "checkbox", value: name }, label);
        box.checked = this.allowed[k];
        box.addEventListener("change", () => { this.allowed[k] = box.checked; this.retag(); });
        element("span", { class: "vlg3d-swatch", style: "background:" + this.data.palette[k] }, label);
        element("span", {}, label, name);
        element("span", { class: "vlg3d-count", "data-class": name }, label);
        return box;
      });
      const actions = element("div", { class: "vlg3d-actions" }, set);
      const preset = (text, tags) => {
        element("button", { type: "button" }, actions, text).addEventListener("click", () => {
          this.allowed = tags.slice();
          this.boxes.forEach((box, k) => { box.checked = tags[k]; });
          this.retag();
        });
      };
      preset("The tags of this room", this.data.scene_labels);
      preset("All words (no tags)", this.data.names.map(() => true));
      list.replaceWith(set);
      this.status = element("p", { class: "vlg3d-status", role: "status", "aria-live": "polite" },
        null, "Untick a tag: its points take the next best word that is still allowed.");
      set.after(this.status);
    }

    retag() {
      const before = this.decoded().labels;
      this.think();
      let changed = 0;
      for (let i = 0; i < before.length; i++) if (before[i] !== this.cloud.labels[i]) changed++;
      const counts = this.count();
      const tags = this.data.names.filter((_, k) => this.allowed[k]);
      this.status.textContent = tags.length === 0
        ? "No tag is ticked: no class can win, and every point stays unlabelled."
        : changed.toLocaleString("en") + " points changed their label. Now: " +
          this.data.names.map((name, k) => [name, counts[k]]).filter((row) => row[1] > 0)
            .sort((a, b) => b[1] - a[1]).slice(0, 5).map((row) => row[0] + " " + row[1].toLocaleString("en")).join(", ") + ".";
      this.redraw();
    }

    count() {
      if (!this.cloud.labels) return [];
      const counts = new Array(256).fill(0);
      for (const label of this.cloud.labels) counts[label]++;
      this.root.querySelectorAll(".vlg3d-count").forEach((node) => {
        const k = this.data.names.indexOf(node.dataset.class);
        node.textContent = counts[k < 0 ? UNLABELLED : k].toLocaleString("en");
      });
      return counts;
    }

    /* ---- plotly ---- */
    trace() {
      const cloud = this.decoded();
      const keep = [];
      for (let i = 0; i < cloud.n; i++) if (this.cut === null || cloud.z[i] <= this.cut) keep.push(i);
      const pick = (array) => Float32Array.from(keep, (i) => array[i]);
      const names = this.data.names || [];
      const marker = { size: this.data.size, line: { width: 0 } };
      let text;
      if (this.view === "colors") {
        const c = cloud.colors;
        marker.color = keep.map((i) => "rgb(" + c[3 * i] + "," + c[3 * i + 1] + "," + c[3 * i + 2] + ")");
      } else {
        const steps = this.data.palette.concat(this.data.unlabelled);
        const last = steps.length;
        marker.color = keep.map((i) => Math.min(cloud.labels[i], last - 1));
        marker.cmin = -0.5;
        marker.cmax = last - 0.5;
        marker.showscale = false;
        marker.colorscale = [];
        steps.forEach((color, k) => { marker.colorscale.push([k / last, color], [(k + 1) / last, color]); });
      }
      if (cloud.labels) text = keep.map((i) => names[cloud.labels[i]] || "unlabelled");
      return {
        type: "scatter3d", mode: "markers", x: pick(cloud.x), y: pick(cloud.y), z: pick(cloud.z), marker: marker,
        text: text, hovertemplate: (text ? "%{text}<br>" : "") + "%{x:.2f}, %{y:.2f}, %{z:.2f} m<extra></extra>",
      };
    }

    layout() {
      const axis = (k) => ({
        visible: false, range: [this.data.bounds[0][k], this.data.bounds[1][k]], showspikes: false,
        title: { text: "xyz"[k] + " (m)" }, showbackground: false, nticks: 5,
      });
      return {
        margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false, uirevision: "keep",
        scene: { xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), aspectmode: "data", dragmode: "turntable",
          camera: this.camera || this.home() },
      };
    }

    home() {
      const vector = (v) => ({ x: v[0], y: v[1], z: v[2] });
      return { eye: vector(this.data.eye), center: vector(this.data.center_of_view), up: { x: 0, y: 0, z: 1 } };
    }

    draw() {
      if (this.root.dataset.state !== "waiting") return;
      this.setState("drawing");
      loadPlotly().then((Plotly) => {
        if (!Figure.webgl) Figure.webgl = hasWebGL() ? "yes" : "no";
        if (Figure.webgl === "no") throw new Error("this browser has no WebGL: the still picture stays");
        while (live.length >= MAX_LIVE) live[0].purge();
        live.push(this);
        const canvas = this.canvas = element("div", { class: "vlg3d-canvas" }, this.stage);
        return Plotly.newPlot(canvas, [this.trace()], this.layout(), {
          displayModeBar: false, responsive: true, scrollZoom: false, showTips: false,
        }).then(() => canvas);
      }).then((canvas) => {
        if (canvas !== this.canvas) return;  // purged while it was being drawn
        canvas.on("plotly_relayout", () => { this.camera = this.current(); });
        this.stage.setAttribute("tabindex", "0");
        this.stage.setAttribute("role", "group");
        this.stage.setAttribute("aria-label", this.alt + " Interactive: arrow keys turn, plus and minus zoom, Home resets.");
        this.stage.onkeydown = (event) => this.key(event);
        this.setState("drawn");
      }).catch((error) => {
        if (this.root.dataset.state === "waiting") return;
        this.purge();
        this.setState("failed");
        element("p", { class: "vlg3d-note" }, this.stage, String(error.message || error));
      });
    }

    redraw() {
      if (this.root.dataset.state !== "drawn") return;
      const trace = this.trace();
      this.camera = this.current();
      window.Plotly.react(this.canvas, [trace], this.layout());
    }

    purge() {
      const place = live.indexOf(this);
      if (place >= 0) live.splice(place, 1);
      if (!this.canvas) return;
      const contexts = Array.from(this.canvas.querySelectorAll("canvas"))
        .map((canvas) => canvas.getContext("webgl") || canvas.getContext("webgl2"));
      window.Plotly.purge(this.canvas);
      contexts.forEach((gl) => { const lose = gl && gl.getExtension("WEBGL_lose_context"); if (lose) lose.loseContext(); });
      this.canvas.remove();
      this.canvas = null;
      this.setState("waiting");
    }

    /* ---- the camera, for keys and buttons ---- */
    current() {
      const scene = this.canvas && this.canvas._fullLayout && this.canvas._fullLayout.scene;
      return scene && scene._scene ? scene._scene.getCamera() : this.camera || this.home();
    }

    move(turn, tilt, zoom) {
      if (this.root.dataset.state !== "drawn") return;
      const camera = this.current();
      const center = camera.center;
      const eye = { x: camera.eye.x - center.x, y: camera.eye.y - center.y, z: camera.eye.z - center.z };
      const flat = Math.hypot(eye.x, eye.y);
      const radius = Math.hypot(flat, eye.z) * zoom;
      const azimuth = Math.atan2(eye.y, eye.x) + turn;
      const height = Math.max(-1.5, Math.min(1.5, Math.atan2(eye.z, flat) + tilt));
      camera.eye = { x: center.x + radius * Math.cos(height) * Math.cos(azimuth),
        y: center.y + radius * Math.cos(height) * Math.sin(azimuth), z: center.z + radius * Math.sin(height) };
      this.look(camera);
    }

    look(camera) {
      this.camera = camera;
      window.Plotly.relayout(this.canvas, { "scene.camera": camera });
    }

    reset() {
      if (this.root.dataset.state === "drawn") this.look(this.home());
    }

    key(event) {
      const step = Math.PI / 18;
      const moves = { ArrowLeft: [-step, 0, 1], ArrowRight: [step, 0, 1], ArrowUp: [0, step, 1], ArrowDown: [0, -step, 1],
        "+": [0, 0, 0.85], "=": [0, 0, 0.85], "-": [0, 0, 1.18] };
      if (event.target !== this.stage || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in moves) this.move.apply(this, moves[event.key]);
      else if (event.key === "Home") this.reset();
      else return;
      event.preventDefault();
      event.stopPropagation();
    }
  }

  function scan(root) {
    (root || document).querySelectorAll("figure.vlg3d:not([data-state])").forEach(function (node) {
      const figure = new Figure(node);
      node.vlg3d = figure;
      if (!("IntersectionObserver" in window)) { figure.draw(); return; }
      new IntersectionObserver(function (entries) {
        const visible = entries[entries.length - 1].isIntersecting;
        if (visible) figure.draw();
        else if (node.dataset.state === "drawn") figure.purge();
      }, { rootMargin: "300px 0px" }).observe(figure.stage);
    });
  }

  window.VLG3D = { scan: scan, live: live, maskedArgmax: maskedArgmax };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => scan());
  else scan();
})();
