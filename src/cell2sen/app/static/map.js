// Map of cells: points by WebGL2, or on a plain canvas where there is none; pan, zoom, lasso, rectangle, hover.

const VERTEX = `#version 300 es
in vec2 place; in vec4 colour; in float chosen;
uniform vec2 scale, shift; uniform float size, dimmed;
out vec4 paint;
void main() {
  gl_Position = vec4(place * scale + shift, 0.0, 1.0);
  gl_PointSize = size * (chosen > 0.5 ? 1.25 : 1.0);
  paint = vec4(colour.rgb, chosen > 0.5 || dimmed < 0.5 ? 0.9 : 0.16);
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 paint; out vec4 shown;
void main() {
  float off = length(gl_PointCoord - 0.5);
  if (off > 0.5) discard;
  shown = vec4(paint.rgb, paint.a * (1.0 - smoothstep(0.4, 0.5, off)));
}`;

// While the map moves, and first after a selection or new colours, every second, fourth, … point is drawn so that a
// frame takes about FRAME_MS, at the beginning about FIRST_POINTS of them; all when it rests.
const FRAME_MS = 40, MIN_POINTS = 10000, FIRST_POINTS = 25000, REST_MS = 200;
const GRID = 256;

export class CellMap {
  // callbacks: select(rows, "replace" | "add" | "remove"), hover(row or -1, x, y), drawn()
  constructor(holder, callbacks) {
    this.holder = holder;
    this.callbacks = callbacks;
    this.x = this.y = new Float32Array(0);
    this.colours = new Uint8Array(0);
    this.chosen = new Uint8Array(0);
    this.order = new Uint32Array(0);
    this.levels = [this.order];
    this.level = 0;
    this.names = [];
    this.rows = new Uint32Array(0);
    this.nSelected = 0;
    this.mode = "lasso";
    this.path = null;
    this.centre = [0, 0];
    this.zoom = 1;
    this.overlay = document.createElement("canvas");
    this.overlay.className = "c2s-overlay";
    this.makeCanvas(true);
    holder.append(this.overlay);
    this.listen();
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(holder);
    this.resize();
  }

  makeCanvas(allowGl) {
    this.canvas?.remove();
    this.canvas = document.createElement("canvas");
    this.canvas.className = "c2s-canvas";
    this.holder.prepend(this.canvas);
    this.gl = allowGl ? this.canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true }) : null;
    if (this.gl) {
      this.canvas.addEventListener("webglcontextlost", (event) => {
        event.preventDefault();
        this.lost = setTimeout(() => { this.makeCanvas(false); this.resize(); }, 1500);
      });
      this.canvas.addEventListener("webglcontextrestored", () => {
        clearTimeout(this.lost);
        this.prepareGl();
        this.redraw();
      });
      if (this.prepareGl()) return;
      this.makeCanvas(false);
      return;
    }
    this.plain = this.canvas.getContext("2d");
  }

  prepareGl() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      if (!shader) return false;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return false;
    gl.useProgram(program);
    this.uniforms = Object.fromEntries(["scale", "shift", "size", "dimmed"].map(
      (name) => [name, gl.getUniformLocation(program, name)],
    ));
    this.buffers = {};
    for (const [name, size, type, normal] of [
      ["place", 2, gl.FLOAT, false], ["colour", 4, gl.UNSIGNED_BYTE, true], ["chosen", 1, gl.UNSIGNED_BYTE, false],
    ]) {
      const at = gl.getAttribLocation(program, name);
      this.buffers[name] = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, type, normal, 0, 0);
    }
    this.buffers.order = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.order);
    gl.enable(gl.BLEND);
    gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.upload();
    return true;
  }

  upload() {
    if (!this.gl || this.gl.isContextLost()) return;
    const { gl, buffers } = this;
    const places = new Float32Array(2 * this.x.length);
    for (let i = 0; i < this.x.length; i += 1) {
      // Cells without coordinates are drawn outside of what is seen.
      places[2 * i] = Number.isFinite(this.x[i]) ? (this.x[i] - this.middle[0]) / this.extent : 1e6;
      places[2 * i + 1] = Number.isFinite(this.y[i]) ? (this.y[i] - this.middle[1]) / this.extent : 1e6;
    }
    for (const [name, data] of [["place", places], ["colour", this.colours], ["chosen", this.chosen]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    }
    this.levels = [this.order];
    for (let last = this.order; last.length > MIN_POINTS;) {
      const half = new Uint32Array(last.length >> 1);
      for (let i = 0; i < half.length; i += 1) half[i] = last[2 * i + 1];
      this.levels.push(half);
      last = half;
    }
    const all = new Uint32Array(this.levels.reduce((sum, level) => sum + level.length, 0));
    this.offsets = [];
    let at = 0;
    for (const level of this.levels) {
      all.set(level, at);
      this.offsets.push(at);
      at += level.length;
    }
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, all, gl.DYNAMIC_DRAW);
  }

  setPoints(x, y) {
    this.x = x;
    this.y = y;
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < x.length; i += 1) {
      if (!Number.isFinite(x[i]) || !Number.isFinite(y[i])) continue;
      left = Math.min(left, x[i]); right = Math.max(right, x[i]);
      low = Math.min(low, y[i]); high = Math.max(high, y[i]);
    }
    if (!(right >= left)) [left, right, low, high] = [-1, 1, -1, 1];
    this.bounds = [left, right, low, high];
    this.middle = [(left + right) / 2, (low + high) / 2];
    this.extent = Math.max(right - left, high - low, 1e-9) / 2;
    this.level = Math.max(0, Math.ceil(Math.log2(x.length / FIRST_POINTS)));
    this.index();
    if (this.colours.length !== 4 * x.length) {
      this.colours = new Uint8Array(4 * x.length).fill(150);
      this.order = Uint32Array.from(x, (_, i) => i);
    }
    this.mark();
    this.whole();
    this.upload();
  }

  // Grid of cells for hovering: the cells of each square, behind one another.
  index() {
    const [left, right, low, high] = this.bounds;
    const of = (i) => Math.min(GRID - 1, Math.floor(((this.x[i] - left) / (right - left || 1)) * GRID))
      + GRID * Math.min(GRID - 1, Math.floor(((this.y[i] - low) / (high - low || 1)) * GRID));
    this.starts = new Uint32Array(GRID * GRID + 1);
    const square = new Int32Array(this.x.length);
    for (let i = 0; i < this.x.length; i += 1) {
      square[i] = Number.isFinite(this.x[i] + this.y[i]) ? of(i) : -1;
      if (square[i] >= 0) this.starts[square[i] + 1] += 1;
    }
    for (let s = 0; s < GRID * GRID; s += 1) this.starts[s + 1] += this.starts[s];
    const next = this.starts.slice();
    this.members = new Uint32Array(this.x.length);
    for (let i = 0; i < this.x.length; i += 1) if (square[i] >= 0) this.members[next[square[i]]++] = i;
  }

  // colours: uint8 (4 n); rank: drawn from the lowest to the highest.
  setColours(colours, rank) {
    this.colours = colours;
    let seed = 1;
    // One number of 53 bits for each cell: its rank (20), a random number (12), so that cells of a rank are in random order, itself (21).
    const keys = new Float64Array(rank.length);
    for (let i = 0; i < keys.length; i += 1) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      keys[i] = (Math.min(rank[i], 1048575) * 4096 + (seed >>> 20)) * 2097152 + i;
    }
    keys.sort();
    this.base = new Uint32Array(keys.length);
    for (let i = 0; i < keys.length; i += 1) this.base[i] = keys[i] % 2097152;
    this.reorder();
  }

  setSelection(rows) {
    this.rows = rows;
    this.mark();
    this.reorder();
  }

  mark() {
    this.chosen = new Uint8Array(this.x.length);
    for (const row of this.rows) this.chosen[row] = 1;
    this.nSelected = this.x.length ? this.rows.length : 0;
  }

  // Selected cells are drawn behind the others in the list, which is above them on the map.
  reorder() {
    const base = this.base ?? Uint32Array.from(this.x, (_, i) => i);
    this.order = new Uint32Array(base.length);
    let [low, high] = [0, base.length - this.nSelected];
    for (const row of base) {
      if (this.chosen[row]) this.order[high++] = row;
      else this.order[low++] = row;
    }
    this.upload();
    this.redrawInSteps();
  }

  // With fewer points first, so that the page can answer; with all of them once nothing has changed for a while.
  redrawInSteps() {
    this.isMoving = true;
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      this.isMoving = false;
      this.redraw(!this.isPartial);
    }, REST_MS);
    this.redraw();
  }

  setNames(names) {
    this.names = names;
    this.redraw();
  }

  resize() {
    const box = this.holder.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    [this.width, this.height] = [Math.max(1, Math.round(box.width)), Math.max(1, Math.round(box.height))];
    for (const canvas of [this.canvas, this.overlay]) {
      canvas.width = Math.round(this.width * this.ratio);
      canvas.height = Math.round(this.height * this.ratio);
    }
    this.redraw();
  }

  whole() {
    this.centre = [0, 0];
    this.zoom = 1;
    this.redraw();
  }

  // Pixels of one unit, where the whole map has the extent -1 to 1.
  unit() {
    return (Math.min(this.width, this.height) / 2) * 0.94 * this.zoom;
  }

  toScreen(x, y) {
    return [
      this.width / 2 + ((x - this.middle[0]) / this.extent - this.centre[0]) * this.unit(),
      this.height / 2 - ((y - this.middle[1]) / this.extent - this.centre[1]) * this.unit(),
    ];
  }

  toData(px, py) {
    return [
      ((px - this.width / 2) / this.unit() + this.centre[0]) * this.extent + this.middle[0],
      (-(py - this.height / 2) / this.unit() + this.centre[1]) * this.extent + this.middle[1],
    ];
  }

  pointSize() {
    const even = Math.sqrt((this.width * this.height) / Math.max(1, this.x.length)) * 0.42;
    return Math.min(14, Math.max(2.4, Math.min(even, 8)) * this.zoom ** 0.35);
  }

  // A lasso that is drawn changes the overlay alone.
  redraw(isOverlayAlone = false) {
    this.isStale ||= !isOverlayAlone;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    if (this.isStale) {
      this.isStale = false;
      if (this.gl && !this.gl.isContextLost()) this.drawGl();
      else if (!this.gl) this.drawPlain();
    }
    this.drawOverlay();
    this.callbacks.drawn?.();
  }

  drawGl() {
    const { gl } = this;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.x.length) return;
    const [sx, sy] = [(2 * this.unit()) / this.width, (2 * this.unit()) / this.height];
    gl.uniform2f(this.uniforms.scale, sx, sy);
    gl.uniform2f(this.uniforms.shift, -this.centre[0] * sx, -this.centre[1] * sy);
    gl.uniform1f(this.uniforms.size, this.pointSize() * this.ratio);
    gl.uniform1f(this.uniforms.dimmed, this.nSelected ? 1 : 0);
    const isTimed = this.isMoving && this.levels.length > 1;
    const level = isTimed ? Math.min(this.level, this.levels.length - 1) : 0;
    this.isPartial = level > 0;
    const started = performance.now();
    gl.drawElements(gl.POINTS, this.levels[level].length, gl.UNSIGNED_INT, 4 * (this.offsets?.[level] ?? 0));
    if (!isTimed) return;
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits until the points are drawn
    this.adapt(performance.now() - started);
  }

  // Fewer or more points for the next frame of a moving map.
  adapt(ms) {
    const change = ms > FRAME_MS ? Math.ceil(Math.log2(ms / FRAME_MS)) : ms < FRAME_MS / 3 ? -1 : 0;
    this.level = Math.min(this.levels.length - 1, Math.max(0, this.level + change));
  }

  // Squares of opaque pixels, written into one picture.
  drawPlain() {
    const { width, height } = this.canvas;
    const picture = this.plain.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer);
    const size = Math.max(1, Math.round(this.pointSize() * this.ratio * 0.8));
    const unit = this.unit() * this.ratio;
    const dimmed = this.nSelected > 0;
    for (const i of this.order) {
      const px = Math.round(width / 2 + ((this.x[i] - this.middle[0]) / this.extent - this.centre[0]) * unit - size / 2);
      const py = Math.round(height / 2 - ((this.y[i] - this.middle[1]) / this.extent - this.centre[1]) * unit - size / 2);
      if (!(px >= 0 && py >= 0 && px + size < width && py + size < height)) continue;
      const alpha = dimmed && !this.chosen[i] ? 60 : 255;
      const value = (alpha << 24) | (this.colours[4 * i + 2] << 16) | (this.colours[4 * i + 1] << 8) | this.colours[4 * i];
      for (let y = py; y < py + size; y += 1) pixels.fill(value, y * width + px, y * width + px + size);
    }
    this.plain.putImageData(picture, 0, 0);
  }

  drawOverlay() {
    const context = this.overlay.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    const style = getComputedStyle(this.holder);
    const [ink, paper] = [style.getPropertyValue("--fg"), style.getPropertyValue("--bg")];
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    const taken = [];
    for (const { name, x, y } of this.names) {
      const [px, py] = this.toScreen(x, y);
      const half = context.measureText(name).width / 2 + 3;
      if (px < -half || px > this.width + half || py < 0 || py > this.height) continue;
      const at = Math.min(Math.max(px, half), this.width - half);
      const line = [py, py - 17, py + 17].find((y2) => !taken.some(([l, r, t, b]) => at + half > l && at - half < r && y2 + 8 > t && y2 - 8 < b));
      if (line === undefined) continue;
      taken.push([at - half, at + half, line - 8, line + 8]);
      context.strokeStyle = paper;
      context.lineWidth = 4;
      context.strokeText(name, at, line);
      context.fillStyle = ink;
      context.fillText(name, at, line);
    }
    if (this.path?.length > 1) {
      context.beginPath();
      for (const [x, y] of outline(this.path, this.pathMode)) context.lineTo(x, y);
      context.closePath();
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.setLineDash([5, 3]);
      context.stroke();
      context.setLineDash([]);
      context.globalAlpha = 0.08;
      context.fillStyle = ink;
      context.fill();
      context.globalAlpha = 1;
    }
  }

  listen() {
    const target = this.overlay;
    const at = (event) => {
      const box = target.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    target.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      target.setPointerCapture(event.pointerId);
      this.pressed = at(event);
      this.moved = false;
      this.pathMode = event.button === 1 ? "move" : this.mode;
      if (this.pathMode !== "move") this.path = [this.pressed];
    });
    target.addEventListener("pointermove", (event) => {
      const place = at(event);
      if (!this.pressed) {
        this.callbacks.hover(this.pick(...place), ...place);
        return;
      }
      if (!this.moved && Math.hypot(place[0] - this.pressed[0], place[1] - this.pressed[1]) < 4) return;
      this.moved = true;
      if (this.pathMode === "move") {
        const last = this.last ?? this.pressed;
        this.pan((place[0] - last[0]) / this.unit(), (place[1] - last[1]) / this.unit());
        this.last = place;
        return;
      }
      const end = this.path[this.path.length - 1];
      if (this.pathMode === "rectangle") this.path = [this.pressed, place];
      else if (Math.hypot(place[0] - end[0], place[1] - end[1]) > 2.5) this.path.push(place);
      this.redraw(true);
    });
    const finish = (event) => {
      if (!this.pressed) return;
      const { path, moved } = this;
      this.pressed = this.path = this.last = null;
      const how = event.shiftKey ? "add" : event.altKey ? "remove" : "replace";
      if (event.type === "pointerup" && !moved) {
        const row = this.pick(...at(event));
        if (row >= 0) this.callbacks.select(Uint32Array.of(row), how);
        else if (this.pathMode !== "move" && how === "replace") this.callbacks.select(new Uint32Array(0), how);
      } else if (event.type === "pointerup" && path?.length > 1) {
        this.callbacks.select(this.inside(outline(path, this.pathMode)), how);
      }
      this.redraw(true); // without the lasso
    };
    target.addEventListener("pointerup", finish);
    target.addEventListener("pointercancel", finish);
    target.addEventListener("pointerleave", () => this.callbacks.hover(-1, 0, 0));
    target.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), at(event));
    }, { passive: false });
  }

  pan(dx, dy) {
    this.centre = [this.centre[0] - dx, this.centre[1] + dy];
    this.redrawInSteps();
  }

  zoomBy(factor, place = [this.width / 2, this.height / 2]) {
    const before = [(place[0] - this.width / 2) / this.unit(), (place[1] - this.height / 2) / this.unit()];
    this.zoom = Math.min(400, Math.max(0.5, this.zoom * factor));
    const after = [(place[0] - this.width / 2) / this.unit(), (place[1] - this.height / 2) / this.unit()];
    this.pan(after[0] - before[0], after[1] - before[1]);
  }

  // Nearest cell within a few pixels, or -1.
  pick(px, py, radius = 8) {
    if (!this.members) return -1;
    const [left, right, low, high] = this.bounds;
    const [a, b] = this.toData(px - radius, py + radius);
    const [c, d] = this.toData(px + radius, py - radius);
    const column = (x) => Math.floor(((x - left) / (right - left || 1)) * GRID);
    const line = (y) => Math.floor(((y - low) / (high - low || 1)) * GRID);
    const clamp = (v) => Math.min(GRID - 1, Math.max(0, v));
    let [best, found] = [radius, -1];
    if (column(c) < 0 || column(a) > GRID || line(d) < 0 || line(b) > GRID) return -1;
    for (let v = clamp(line(b)); v <= clamp(line(d)); v += 1) {
      for (let u = clamp(column(a)); u <= clamp(column(c)); u += 1) {
        for (let k = this.starts[v * GRID + u]; k < this.starts[v * GRID + u + 1]; k += 1) {
          const row = this.members[k];
          const [x, y] = this.toScreen(this.x[row], this.y[row]);
          const off = Math.hypot(x - px, y - py);
          if (off < best) [best, found] = [off, row];
        }
      }
    }
    return found;
  }

  // Cells inside of a polygon on the screen, by the even-odd rule.
  inside(polygon) {
    const corners = polygon.map(([x, y]) => this.toData(x, y));
    const xs = corners.map((c) => c[0]);
    const ys = corners.map((c) => c[1]);
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const found = [];
    for (let i = 0; i < this.x.length; i += 1) {
      const [x, y] = [this.x[i], this.y[i]];
      if (!(x >= left && x <= right && y >= low && y <= high)) continue;
      let within = false;
      for (let j = 0, k = xs.length - 1; j < xs.length; k = j, j += 1) {
        if (ys[j] > y !== ys[k] > y && x < ((xs[k] - xs[j]) * (y - ys[j])) / (ys[k] - ys[j]) + xs[j]) within = !within;
      }
      if (within) found.push(i);
    }
    return Uint32Array.from(found);
  }

  destroy() {
    this.observer.disconnect();
    clearTimeout(this.lost);
    clearTimeout(this.settling);
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

function outline(path, mode) {
  if (mode !== "rectangle") return path;
  const [[a, b], [c, d]] = path;
  return [[a, b], [c, b], [c, d], [a, d]];
}
