#version 300 es
// EWA splatting as render/cpu_projection.py does it: clamped Jacobian, 0.3 square pixels of dilation, a quad that ends
// where alpha falls below 1/255.
precision highp float;

const float ALPHA_CUT = 1.0 / 255.0;
const float DILATION = 0.3; // square pixels
const float NEAR = 0.01; // metres

uniform highp sampler2D splats; // 256 Gaussians a row, four texels each
uniform vec3 right, down, forward, eye; // of the camera, OpenCV axes, metres
uniform float focal; // pixels
uniform vec2 size; // pixels

layout(location = 0) in vec2 corner; // -1..1
layout(location = 1) in uint index; // of the Gaussian, from far to near

out vec2 offset; // pixels from the splat's centre
flat out vec3 conic;
flat out vec4 tint; // RGB and opacity

vec4 texel(int number) {
  return texelFetch(splats, ivec2(4 * int(index & 255u) + number, int(index >> 8)), 0);
}

mat3 rotation(vec4 q) { // wxyz
  q = normalize(q);
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  vec4 place = texel(0);
  vec3 away = place.xyz - eye;
  vec3 point = vec3(dot(right, away), dot(down, away), dot(forward, away));
  float opacity = place.w;
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0); // outside, unless it is seen
  if (point.z < NEAR || opacity < ALPHA_CUT) return;

  vec2 ray = point.xy / point.z;
  vec2 limit = 0.65 * size / focal; // half the picture and 0.3 of that
  vec2 clamped = clamp(ray, -limit, limit);
  mat3 turned = rotation(texel(1));
  vec3 scales = texel(2).xyz;
  vec3 h = focal / point.z * ((right - clamped.x * forward) * turned) * scales;
  vec3 k = focal / point.z * ((down - clamped.y * forward) * turned) * scales;
  float hh = dot(h, h), kk = dot(k, k), xy = dot(h, k);
  vec3 n = cross(h, k);
  float det = dot(n, n) + DILATION * (hh + kk) + DILATION * DILATION;
  float xx = hh + DILATION, yy = kk + DILATION;
  conic = vec3(yy, -xy, xx) / det;
  tint = vec4(texel(3).xyz, opacity);

  float cut = min(log(opacity / ALPHA_CUT), -log(ALPHA_CUT));
  float half_trace = 0.5 * (xx + yy);
  float root = length(vec2(0.5 * (xx - yy), xy));
  float large = half_trace + root;
  float small = det / large;
  vec2 along = vec2(xy, large - xx);
  vec2 axis = dot(along, along) > 1e-12 ? normalize(along) : (xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
  offset = corner.x * sqrt(2.0 * cut * large) * axis + corner.y * sqrt(2.0 * cut * small) * vec2(-axis.y, axis.x);
  vec2 pixel = focal * ray + 0.5 * size + offset;
  gl_Position = vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0.0, 1.0);
}
