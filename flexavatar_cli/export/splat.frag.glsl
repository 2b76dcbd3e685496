#version 300 es
precision highp float;

in vec2 offset;
flat in vec3 conic;
flat in vec4 tint;
out vec4 color; // premultiplied

void main() {
  float sigma = 0.5 * (conic.x * offset.x * offset.x + conic.z * offset.y * offset.y) + conic.y * offset.x * offset.y;
  float alpha = min(0.999, tint.a * exp(-sigma));
  if (alpha < 1.0 / 255.0) discard;
  color = vec4(tint.rgb * alpha, alpha);
}
