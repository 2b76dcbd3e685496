// The page: unpacks the avatar, asks the worker for splats, draws them, and turns the camera and the sliders.
"use strict";

const DISTANCE = 1.0, NEAREST = 0.4, FARTHEST = 2.5; // metres from the head's centre
const VISIBLE = 0.4; // metres that the smaller side of the picture shows at DISTANCE
const STEEPEST = 1.2; // radians of elevation
const MOST_PIXELS_PER_POINT = 2; // more costs a phone its battery and shows nothing

const canvas = document.getElementById("view");
const view = { azimuth: 0, elevation: 0, distance: DISTANCE };
const wanted = { playing: !matchMedia("(prefers-reduced-motion: reduce)").matches, seconds: 0, sliders: {}, weights: {} };
const state = { busy: true, stale: true, redraw: true, count: 0, order: false, spare: undefined, header: undefined };
let painter, worker;

const text = (id) => document.getElementById(id).textContent;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function say(message) {
  const place = document.getElementById("message");
  place.textContent = message;
  place.hidden = !message;
}

async function archive() {
  const packed = atob(text("avatar"));
  const bytes = Uint8Array.from({ length: packed.length }, (_, at) => packed.charCodeAt(at));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function compiled(gl, kind, source) {
  const shader = gl.createShader(kind);
  gl.shaderSource(shader, source.trim());
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
  return shader;
}

// Everything that belongs to the graphics context; made again when the browser has taken it away.
function makePainter() {
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
  if (!gl) throw new Error("this browser shows no WebGL 2");
  const program = gl.createProgram();
  gl.attachShader(program, compiled(gl, gl.VERTEX_SHADER, text("vertex")));
  gl.attachShader(program, compiled(gl, gl.FRAGMENT_SHADER, text("fragment")));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  const uniforms = {};
  for (const name of ["right", "down", "forward", "eye", "focal", "size"]) uniforms[name] = gl.getUniformLocation(program, name);

  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  const order = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, order);
  gl.enableVertexAttribArray(1);
  gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(1, 1);

  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);

  // Half floats, so that many thin layers do not add up the rounding of eight bits, and colours beyond white stay.
  const deep = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
  const target = deep && { frame: gl.createFramebuffer(), color: gl.createRenderbuffer(), width: 0, height: 0 };
  return { gl, uniforms, order, target };
}

function fitTarget({ gl, target }, width, height) {
  if (!target) return;
  gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
  if (target.width === width && target.height === height) return;
  gl.bindRenderbuffer(gl.RENDERBUFFER, target.color);
  gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA16F, width, height);
  gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, target.color);
  Object.assign(target, { width, height });
}

// OpenCV axes and the eye of a camera that looks at the head's centre.
function camera() {
  const { azimuth, elevation, distance } = view;
  const sa = Math.sin(azimuth), ca = Math.cos(azimuth), se = Math.sin(elevation), ce = Math.cos(elevation);
  const forward = [-sa * ce, -se, -ca * ce];
  return { forward, right: [ca, 0, -sa], down: [sa * se, -ce, ca * se], eye: forward.map((x) => -distance * x) };
}

function draw() {
  const { gl, uniforms, target } = painter;
  const points = Math.min(devicePixelRatio || 1, MOST_PIXELS_PER_POINT);
  const width = Math.max(1, Math.round(canvas.clientWidth * points));
  const height = Math.max(1, Math.round(canvas.clientHeight * points));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  fitTarget(painter, width, height);
  gl.viewport(0, 0, width, height);
  gl.clearColor(1, 1, 1, 1);
  gl.clear(gl.COLOR_BUFFER_BIT);
  const { right, down, forward, eye } = camera();
  gl.uniform3fv(uniforms.right, right);
  gl.uniform3fv(uniforms.down, down);
  gl.uniform3fv(uniforms.forward, forward);
  gl.uniform3fv(uniforms.eye, eye);
  gl.uniform1f(uniforms.focal, (Math.min(width, height) * DISTANCE) / VISIBLE);
  gl.uniform2f(uniforms.size, width, height);
  gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, state.count);
  if (!target) return;
  gl.bindFramebuffer(gl.READ_FRAMEBUFFER, target.frame);
  gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
  gl.blitFramebuffer(0, 0, width, height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.NEAREST);
}

function upload(splats, order) {
  const { gl } = painter;
  if (splats) {
    const rows = splats.length / 4096;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 1024, rows, 0, gl.RGBA, gl.FLOAT, splats);
    state.spare = splats;
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, painter.order);
  gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
}

// The expression code that sliders and `flexavatar.express` ask for.
function added() {
  const { expression_names: names, sliders } = state.header;
  const code = new Float32Array(names.length);
  for (const [name, value] of Object.entries(wanted.sliders)) {
    const direction = sliders[name][value < 0 ? "minus" : "plus"];
    for (const [shape, weight] of Object.entries(direction)) code[names.indexOf(shape)] += Math.abs(value) * weight;
  }
  for (const [shape, weight] of Object.entries(wanted.weights)) code[names.indexOf(shape)] += weight;
  return code;
}

function ask() {
  const { spare } = state;
  Object.assign(state, { busy: true, stale: false, spare: undefined });
  const seconds = wanted.playing ? wanted.seconds : null;
  const message = { seconds, added: added(), forward: camera().forward, splats: spare };
  worker.postMessage(message, spare ? [spare.buffer] : []);
}

function hear({ data }) {
  if (data.header) {
    Object.assign(state, { header: data.header, count: data.count, busy: false });
    makePanel(data.header.sliders);
    say("");
    requestAnimationFrame(tick);
    return;
  }
  upload(data.splats, data.order);
  Object.assign(state, { busy: false, redraw: true, order: true });
}

let before;
function tick(now) {
  if (wanted.playing && before !== undefined) wanted.seconds += Math.min(now - before, 100) / 1000;
  before = now;
  if (!state.busy && (wanted.playing || state.stale)) ask();
  if (state.redraw && state.order) {
    draw();
    state.redraw = false;
  }
  requestAnimationFrame(tick);
}

function changed() {
  state.stale = state.redraw = true;
}

function makePanel(sliders) {
  const panel = document.getElementById("panel");
  const add = (name, settings, hear) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), settings);
    input.addEventListener("input", () => hear(input));
    label.append(name, input);
    panel.append(label);
    return input;
  };
  for (const [name, { minus }] of Object.entries(sliders)) {
    const range = { type: "range", min: minus ? -1 : 0, max: 1, step: 0.01, value: 0 };
    add(name, range, (input) => {
      wanted.sliders[name] = Number(input.value);
      changed();
    });
  }
  add("motion", { type: "checkbox", id: "motion", checked: wanted.playing }, (input) => flexavatar.play(input.checked));
  panel.hidden = false;
}

function orbit(azimuth, elevation) {
  view.azimuth += azimuth;
  view.elevation = clamp(view.elevation + elevation, -STEEPEST, STEEPEST);
  changed();
}

function zoom(factor) {
  view.distance = clamp(view.distance * factor, NEAREST, FARTHEST);
  changed();
}

function listen() {
  const fingers = new Map();
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const old = fingers.get(event.pointerId);
    if (!old) return;
    const apart = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const turn = Math.PI / Math.min(canvas.clientWidth, canvas.clientHeight);
    if (fingers.size === 1) orbit((old.x - event.clientX) * turn, (event.clientY - old.y) * turn);
    else if (apart > 0) zoom(apart / Math.max(spread(), 1));
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(clamp(event.deltaY, -100, 100) * 0.002));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => flexavatar.look(0, 0, DISTANCE));
  addEventListener("resize", changed);
  canvas.addEventListener("webglcontextlost", (event) => {
    event.preventDefault();
    state.order = false;
  });
  canvas.addEventListener("webglcontextrestored", () => location.reload());
}

// What a page around this one may call.
const flexavatar = {
  // Built-in motion on or off.
  play(on) {
    wanted.playing = on;
    document.getElementById("motion").checked = on;
    changed();
  },
  // Weights of expressions by ARKit's names, e.g. {jawOpen: 0.5}, added to motion and sliders.
  express(weights) {
    const unknown = Object.keys(weights).filter((name) => !state.header.expression_names.includes(name));
    if (unknown.length) throw new RangeError(`no such expression: ${unknown.join(", ")}`);
    wanted.weights = { ...weights };
    changed();
  },
  // Camera: degrees to the subject's left, degrees up, metres away.
  look(azimuth, elevation, distance = DISTANCE) {
    Object.assign(view, { azimuth: 0, elevation: 0, distance: clamp(distance, NEAREST, FARTHEST) });
    orbit((azimuth * Math.PI) / 180, (elevation * Math.PI) / 180);
  },
  // Whether the canvas shows all that was asked for.
  get settled() {
    return !state.busy && !state.stale && !state.redraw && state.order;
  },
};
window.flexavatar = flexavatar;

async function open() {
  painter = makePainter();
  listen();
  worker = new Worker(URL.createObjectURL(new Blob([text("worker")], { type: "text/javascript" })));
  worker.onmessage = hear;
  worker.onerror = (event) => say(event.message);
  const buffer = await archive();
  worker.postMessage({ archive: buffer }, [buffer]);
}

open().catch((error) => say(error.message));
