// The avatar's Gaussians for an expression: what stages/playback.py and stages/posing.py do in Python, in the same order
// and with the constants that the file brings along; lids close by a table of it. No DOM: runs in a worker or in Node.
"use strict";

const TYPES = { F32: Float32Array, I8: Int8Array, I16: Int16Array, I32: Int32Array, U16: Uint16Array };

// Header and arrays of a safetensors archive; a quantised array is turned back into numbers by its row's steps.
function openArchive(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const entries = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const start = 8 + length;
  const stored = {}, shapes = {};
  for (const [name, entry] of Object.entries(entries)) {
    if (name === "__metadata__") continue;
    const [first, last] = entry.data_offsets;
    const Kind = TYPES[entry.dtype];
    stored[name] = new Kind(buffer, start + first, (last - first) / Kind.BYTES_PER_ELEMENT);
    shapes[name] = entry.shape;
  }
  const arrays = {};
  for (const name of Object.keys(stored)) {
    if (name.endsWith(".step")) continue;
    arrays[name] = name + ".step" in stored ? scaled(stored[name], stored[name + ".step"]) : stored[name];
  }
  return { header: JSON.parse(entries.__metadata__["flexavatar-viewer"]), arrays, shapes };
}

function scaled(whole, steps) {
  const result = new Float32Array(whole.length);
  const width = whole.length / steps.length;
  for (let row = 0, at = 0; row < steps.length; row++) {
    for (let column = 0; column < width; column++, at++) result[at] = whole[at] * steps[row];
  }
  return result;
}

class Head {
  constructor(buffer) {
    const { header, arrays, shapes } = openArchive(buffer);
    this.header = header;
    this.arrays = arrays;
    this.count = shapes.bary[0]; // N texels
    this.vertexCount = shapes.neutral[0];
    this.rank = header.rank;
    this.layers = [];
    while (`layer.${this.layers.length}.weight` in arrays) {
      const name = `layer.${this.layers.length}`;
      this.layers.push([arrays[name + ".weight"], arrays[name + ".bias"]]);
    }
    this.vertices = new Float32Array(3 * this.vertexCount);
    this.normals = new Float32Array(3 * this.vertexCount);
    this.scratch = new Float32Array(3 * this.vertexCount);
    this.fields = {};
    for (const [name, channels] of Object.entries(header.channels)) this.fields[name] = new Float32Array(channels * this.count);
    this.positions = new Float32Array(3 * this.count);
    this.quats = new Float32Array(4 * this.count);
    this.scales = new Float32Array(3 * this.count);
    const width = header.expression_names.length, samples = shapes.support[0];
    this.support = [];
    for (let s = 0; s < samples; s++) this.support.push(this.tokens(arrays.support.subarray(s * width, (s + 1) * width)));
  }

  // Positions, quats (wxyz), scales, opacities and colours of one expression code; valid until the next call.
  gaussians(code) {
    this.playAttributes(this.coefficients(code));
    this.closeLids(code);
    this.poseVertices(code);
    this.vertexNormals();
    this.place();
    this.shape();
    const { opacity, color } = this.fields;
    return { positions: this.positions, quats: this.quats, scales: this.scales, opacities: opacity, colors: color };
  }

  // The decoder's first layers: [E] -> [U].
  tokens(code) {
    let x = code;
    this.layers.forEach(([weight, bias], number) => {
      const y = new Float32Array(bias);
      const width = x.length;
      for (let i = 0; i < width; i++) {
        const value = number ? Math.max(x[i], 0) : x[i];
        if (value === 0) continue;
        for (let o = 0; o < y.length; o++) y[o] += weight[o * width + i] * value;
      }
      x = y;
    });
    return x;
  }

  // Kernel ridge regression of the basis' coefficients: [E] -> [r].
  coefficients(code) {
    const { weights } = this.arrays;
    const tokens = this.tokens(code);
    const result = new Float32Array(this.rank);
    const samples = this.support.length;
    for (let k = 0; k < this.rank; k++) result[k] = weights[samples * this.rank + k];
    for (let s = 0; s < samples; s++) {
      const other = this.support[s];
      let square = 0;
      for (let u = 0; u < tokens.length; u++) square += (tokens[u] - other[u]) ** 2;
      const near = Math.exp((-0.5 * square) / this.header.length ** 2);
      for (let k = 0; k < this.rank; k++) result[k] += near * weights[s * this.rank + k];
    }
    return result;
  }

  // Each attribute: its mean, moved along the basis where it moves.
  playAttributes(coefficients) {
    for (const [name, channels] of Object.entries(this.header.channels)) {
      const values = this.fields[name];
      const moving = this.arrays["moving." + name], basis = this.arrays["basis." + name];
      values.set(this.arrays["mean." + name]);
      const width = moving.length * channels;
      const moved = new Float32Array(width);
      for (let k = 0; k < this.rank; k++) {
        const c = coefficients[k], row = k * width;
        for (let i = 0; i < width; i++) moved[i] += c * basis[row + i];
      }
      for (let i = 0, at = 0; i < moving.length; i++) {
        for (let c = 0; c < channels; c++, at++) values[moving[i] * channels + c] += moved[at];
      }
      if (name === "scale") for (let i = 0; i < values.length; i++) values[i] = Math.exp(values[i]);
    }
  }

  // What closing does to the lids: recorded changes of their attributes, by how far the expression lowers them.
  closeLids(code) {
    this.header.lids.forEach(({ columns, lowering }, side) => {
      const lowered = columns.reduce((sum, column, at) => sum + code[column] * lowering[at], 0);
      const place = Math.min(Math.max(lowered, 0), 1) * this.header.lid_steps;
      if (place === 0) return;
      const level = Math.min(Math.floor(place), this.header.lid_steps - 1), share = place - level;
      const texels = this.arrays[`lid.${side}.texels`];
      for (const [name, channels] of Object.entries(this.header.channels)) {
        const changes = this.arrays[`lid.${side}.${name}`];
        if (!changes) continue;
        const width = texels.length * channels, lower = level * width, upper = lower + width;
        for (let i = 0; i < width; i++) {
          const at = texels[Math.floor(i / channels)] * channels + (i % channels);
          this.fields[name][at] += (1 - share) * changes[lower + i] + share * changes[upper + i];
        }
      }
    });
  }

  // Blendshapes added, then each eyeball turned about its centre.
  poseVertices(code) {
    const { neutral, shapes } = this.arrays, vertices = this.vertices;
    vertices.set(neutral);
    for (let e = 0; e < this.header.shape_count; e++) {
      const weight = code[e];
      if (weight === 0) continue;
      const row = e * vertices.length;
      for (let i = 0; i < vertices.length; i++) vertices[i] += weight * shapes[row + i];
    }
    this.header.eye_centres.forEach((centre, side) => {
      const yaw = code[this.header.gaze[side][0]], pitch = code[this.header.gaze[side][1]];
      const sy = Math.sin(yaw), cy = Math.cos(yaw), sp = Math.sin(pitch), cp = Math.cos(pitch);
      for (const v of this.arrays[`eye.${side}`]) {
        const x = vertices[3 * v] - centre[0], y = vertices[3 * v + 1] - centre[1], z = vertices[3 * v + 2] - centre[2];
        vertices[3 * v] = cy * x - sy * sp * y + sy * cp * z + centre[0];
        vertices[3 * v + 1] = cp * y + sp * z + centre[1];
        vertices[3 * v + 2] = -sy * x - cy * sp * y + cy * cp * z + centre[2];
      }
    });
  }

  // Area-weighted normals, averaged over neighbours in half-steps, of unit length.
  vertexNormals() {
    const { faces } = this.arrays, starts = this.arrays["link.starts"], columns = this.arrays["link.columns"];
    const weights = this.arrays["link.weights"], p = this.vertices;
    let before = this.normals, after = this.scratch;
    before.fill(0);
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ex = p[b] - p[a], ey = p[b + 1] - p[a + 1], ez = p[b + 2] - p[a + 2];
      const fx = p[c] - p[a], fy = p[c + 1] - p[a + 1], fz = p[c + 2] - p[a + 2];
      const nx = ey * fz - ez * fy, ny = ez * fx - ex * fz, nz = ex * fy - ey * fx;
      for (const corner of [a, b, c]) {
        before[corner] += nx;
        before[corner + 1] += ny;
        before[corner + 2] += nz;
      }
    }
    normalise(before);
    for (let step = 0; step < this.header.normal_steps; step++) {
      for (let v = 0; v < this.vertexCount; v++) {
        let x = 0, y = 0, z = 0;
        for (let i = starts[v]; i < starts[v + 1]; i++) {
          const w = weights[i], other = 3 * columns[i];
          x += w * before[other];
          y += w * before[other + 1];
          z += w * before[other + 2];
        }
        after[3 * v] = x;
        after[3 * v + 1] = y;
        after[3 * v + 2] = z;
      }
      [before, after] = [after, before];
    }
    normalise(before);
    [this.normals, this.scratch] = [before, after];
  }

  // Texels on the surface, moved by their offsets along tangent, bitangent and normal.
  place() {
    const { faces, face, bary, tangent, reach } = this.arrays;
    const p = this.vertices, q = this.normals, offset = this.fields.offset, out = this.positions;
    for (let n = 0; n < this.count; n++) {
      const f = face[n];
      const a = 3 * faces[3 * f], b = 3 * faces[3 * f + 1], c = 3 * faces[3 * f + 2];
      const u = bary[2 * n], v = bary[2 * n + 1], w = 1 - u - v;
      const s = tangent[2 * f], t = tangent[2 * f + 1];
      let nx = u * q[a] + v * q[b] + w * q[c];
      let ny = u * q[a + 1] + v * q[b + 1] + w * q[c + 1];
      let nz = u * q[a + 2] + v * q[b + 2] + w * q[c + 2];
      let k = 1 / Math.max(Math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12);
      nx *= k; ny *= k; nz *= k;
      let tx = s * (p[b] - p[a]) + t * (p[c] - p[a]);
      let ty = s * (p[b + 1] - p[a + 1]) + t * (p[c + 1] - p[a + 1]);
      let tz = s * (p[b + 2] - p[a + 2]) + t * (p[c + 2] - p[a + 2]);
      const along = tx * nx + ty * ny + tz * nz;
      tx -= along * nx; ty -= along * ny; tz -= along * nz;
      k = 1 / Math.max(Math.sqrt(tx * tx + ty * ty + tz * tz), 1e-12);
      tx *= k; ty *= k; tz *= k;
      const x = reach[n] * offset[3 * n], y = reach[n] * offset[3 * n + 1], z = reach[n] * offset[3 * n + 2];
      out[3 * n] = u * p[a] + v * p[b] + w * p[c] + x * tx + y * (ny * tz - nz * ty) + z * nx;
      out[3 * n + 1] = u * p[a + 1] + v * p[b + 1] + w * p[c + 1] + x * ty + y * (nz * tx - nx * tz) + z * ny;
      out[3 * n + 2] = u * p[a + 2] + v * p[b + 2] + w * p[c + 2] + x * tz + y * (nx * ty - ny * tx) + z * nz;
    }
  }

  // Orientation and size of the cell that each texel covers, times what the decoder says about them.
  shape() {
    const { neighbours } = this.arrays, { scale, rotation } = this.fields, { quats, scales, count } = this;
    const { size_share: share, thickness, smallest_sigma: smallest } = this.header;
    const e = [0, 0, 0], f = [0, 0, 0], base = [1, 0, 0, 0];
    for (let n = 0; n < count; n++) {
      this.step(n, neighbours[n], neighbours[count + n], e);
      this.step(n, neighbours[2 * count + n], neighbours[3 * count + n], f);
      const uu = dot(e, e), vv = dot(f, f), uv = dot(e, f);
      const half = 0.5 * (uu + vv), apart = 0.5 * (uu - vv), root = Math.sqrt(apart * apart + uv * uv);
      const angle = 0.5 * Math.atan2(uv, apart), cos = Math.cos(angle), sin = Math.sin(angle);
      principalFrame(e, f, cos, sin, base);
      const [w, x, y, z] = base;
      const a = rotation[4 * n], b = rotation[4 * n + 1], c = rotation[4 * n + 2], d = rotation[4 * n + 3];
      quats[4 * n] = w * a - x * b - y * c - z * d;
      quats[4 * n + 1] = w * b + x * a + y * d - z * c;
      quats[4 * n + 2] = w * c - x * d + y * a + z * b;
      quats[4 * n + 3] = w * d + x * c - y * b + z * a;
      const small = Math.max(Math.sqrt(Math.max(half - root, 0)), smallest);
      const large = Math.max(Math.sqrt(half + root), small);
      scales[3 * n] = share * large * scale[3 * n];
      scales[3 * n + 1] = share * small * scale[3 * n + 1];
      scales[3 * n + 2] = share * thickness * small * scale[3 * n + 2];
    }
  }

  // Mean step from one neighbour to the other; zero where there is none. It is cut at longest_step, and up to
  // stretched_step where the surface is as long on both sides.
  step(n, before, after, out) {
    const p = this.positions, count = Math.max((before !== n) + (after !== n), 1);
    let one = 0, other = 0;
    for (let axis = 0; axis < 3; axis++) {
      const here = p[3 * n + axis];
      one += (here - p[3 * before + axis]) ** 2;
      other += (p[3 * after + axis] - here) ** 2;
      out[axis] = (p[3 * after + axis] - p[3 * before + axis]) / count;
    }
    const length = Math.max(Math.sqrt(dot(out, out)), 1e-9), shorter = Math.sqrt(Math.min(one, other));
    const longest = Math.min(Math.max(shorter, this.header.longest_step), this.header.stretched_step);
    const factor = Math.min(length, longest) / length;
    for (let axis = 0; axis < 3; axis++) out[axis] *= factor;
  }
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function normalise(rows) {
  for (let i = 0; i < rows.length; i += 3) {
    const k = 1 / Math.max(Math.sqrt(rows[i] ** 2 + rows[i + 1] ** 2 + rows[i + 2] ** 2), 1e-12);
    rows[i] *= k;
    rows[i + 1] *= k;
    rows[i + 2] *= k;
  }
}

// Quaternion (wxyz, into `out`) of the frame: the cell's longer axis, the shorter one, their normal.
function principalFrame(e, f, cos, sin, out) {
  let ax = cos * e[0] + sin * f[0], ay = cos * e[1] + sin * f[1], az = cos * e[2] + sin * f[2];
  const bx = cos * f[0] - sin * e[0], by = cos * f[1] - sin * e[1], bz = cos * f[2] - sin * e[2];
  let k = 1 / Math.max(Math.sqrt(ax * ax + ay * ay + az * az), 1e-9);
  ax *= k; ay *= k; az *= k;
  let nx = ay * bz - az * by, ny = az * bx - ax * bz, nz = ax * by - ay * bx;
  const square = nx * nx + ny * ny + nz * nz;
  if (square < 1e-24) {
    [ax, ay, az, nx, ny, nz] = [1, 0, 0, 0, 0, 1];
  } else {
    k = 1 / Math.sqrt(square);
    nx *= k; ny *= k; nz *= k;
  }
  const cx = ny * az - nz * ay, cy = nz * ax - nx * az, cz = nx * ay - ny * ax;
  const trace = ax + cy + nz;
  let w, x, y, z;
  if (trace >= Math.max(ax, cy, nz)) [w, x, y, z] = [1 + trace, cz - ny, nx - az, ay - cx];
  else if (ax >= cy && ax >= nz) [w, x, y, z] = [cz - ny, 1 + ax - cy - nz, ay + cx, nx + az];
  else if (cy >= nz) [w, x, y, z] = [nx - az, ay + cx, 1 - ax + cy - nz, cz + ny];
  else [w, x, y, z] = [ay - cx, nx + az, cz + ny, 1 - ax - cy + nz];
  k = 1 / Math.sqrt(w * w + x * x + y * y + z * z);
  out[0] = w * k; out[1] = x * k; out[2] = y * k; out[3] = z * k;
}

// Indices of the positions from far to near along `forward`: a counting sort over 65536 slices of the depth.
function backToFront(positions, forward, order) {
  const count = positions.length / 3, slices = 65536;
  const depths = new Float32Array(count);
  let low = Infinity, high = -Infinity;
  for (let n = 0; n < count; n++) {
    const depth = forward[0] * positions[3 * n] + forward[1] * positions[3 * n + 1] + forward[2] * positions[3 * n + 2];
    depths[n] = depth;
    low = Math.min(low, depth);
    high = Math.max(high, depth);
  }
  const factor = (slices - 1) / Math.max(high - low, 1e-9);
  const keys = new Uint16Array(count), starts = new Uint32Array(slices + 1);
  for (let n = 0; n < count; n++) {
    keys[n] = (high - depths[n]) * factor;
    starts[keys[n] + 1]++;
  }
  for (let k = 0; k < slices; k++) starts[k + 1] += starts[k];
  for (let n = 0; n < count; n++) order[starts[keys[n]]++] = n;
  return order;
}

// The expression code of the built-in motion at a time, between its recorded frames; it repeats.
function motionAt(header, arrays, seconds) {
  const width = header.expression_names.length, frames = arrays.motion.length / width;
  const place = (seconds * header.motion_fps) % frames, first = Math.floor(place), share = place - first;
  const code = new Float32Array(width);
  for (let e = 0; e < width; e++) {
    const next = arrays.motion[((first + 1) % frames) * width + e];
    code[e] = (1 - share) * arrays.motion[first * width + e] + share * next;
  }
  return code;
}

if (typeof module !== "undefined") module.exports = { Head, openArchive, backToFront, motionAt };
