// Poses and sorts beside the page's own thread. Appended to head.js.
"use strict";

const NUMBERS = 16; // per Gaussian, four texels: position and opacity, quaternion, scales, colour
let head, shown;

onmessage = ({ data }) => {
  if (data.archive) {
    head = new Head(data.archive);
    postMessage({ header: head.header, count: head.count });
    return;
  }
  const code = expression(data.seconds, data.added);
  const splats = shown && code.every((weight, e) => weight === shown[e]) ? null : packed(head.gaussians(code), data.splats);
  shown = code;
  const order = backToFront(head.positions, data.forward, new Uint32Array(head.count));
  postMessage({ splats, order }, splats ? [splats.buffer, order.buffer] : [order.buffer]);
};

// The built-in motion at a time (null: at rest) with weights added; blendshape weights stay in 0..1.
function expression(seconds, added) {
  const code = seconds === null ? new Float32Array(added.length) : motionAt(head.header, head.arrays, seconds);
  for (let e = 0; e < code.length; e++) {
    code[e] += added[e];
    if (e < head.header.shape_count) code[e] = Math.min(Math.max(code[e], 0), 1);
  }
  return code;
}

// Gaussians as rows of a texture, in `used` if it came back from the page.
function packed({ positions, quats, scales, opacities, colors }, used) {
  const rows = Math.ceil(head.count / 256);
  const out = used || new Float32Array(rows * 256 * NUMBERS);
  for (let n = 0, at = 0; n < head.count; n++, at += NUMBERS) {
    for (let axis = 0; axis < 3; axis++) {
      out[at + axis] = positions[3 * n + axis];
      out[at + 8 + axis] = scales[3 * n + axis];
      out[at + 12 + axis] = colors[3 * n + axis];
    }
    out[at + 3] = opacities[n];
    for (let part = 0; part < 4; part++) out[at + 4 + part] = quats[4 * n + part];
  }
  return out;
}
