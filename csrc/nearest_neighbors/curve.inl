// Positions along a Hilbert curve for 16 points at a time, compiled once per SIMD level.
namespace zoo::nearest_neighbors::ZOO_SIMD_LEVEL {

// J. Skilling, Programming the Hilbert curve, AIP Conf. Proc. 707, 2004 (axes to transpose), with masks for branches.
template <int D>
inline void hilbert(uint32_t (*x)[kWide], uint32_t* position) {
  typedef uint32_t V __attribute__((vector_size(ZOO_SIMD_BYTES)));
  constexpr int width = ZOO_SIMD_BYTES / 4;
  for (int i = 0; i < kWide / width; ++i) {
    V v[D];
    for (int d = 0; d < D; ++d) v[d] = reinterpret_cast<const V*>(x[d])[i];
    for (int b = kBits<D> - 1; b > 0; --b) {
      const uint32_t low = (1u << b) - 1;
      for (int d = 0; d < D; ++d) {
        const V set = -((v[d] >> b) & 1u);
        const V swap = (v[0] ^ v[d]) & low & ~set;
        v[0] ^= swap | (set & low);
        v[d] ^= swap;
      }
    }
    for (int d = 1; d < D; ++d) v[d] ^= v[d - 1];
    V parity = {};
    for (int b = kBits<D> - 1; b > 0; --b) parity ^= -((v[D - 1] >> b) & 1u) & ((1u << b) - 1);
    V key = {};
    for (int d = 0; d < D; ++d) {
      V bits = v[d] ^ parity;
      if (D == 2) {
        bits = (bits | bits << 8) & 0x00ff00ffu;
        bits = (bits | bits << 4) & 0x0f0f0f0fu;
        bits = (bits | bits << 2) & 0x33333333u;
        bits = (bits | bits << 1) & 0x55555555u;
      } else {
        bits = (bits | bits << 16) & 0x030000ffu;
        bits = (bits | bits << 8) & 0x0300f00fu;
        bits = (bits | bits << 4) & 0x030c30c3u;
        bits = (bits | bits << 2) & 0x09249249u;
      }
      key |= bits << (D - 1 - d);
    }
    reinterpret_cast<V*>(position)[i] = key;
  }
}

template <typename A, int D>
void positions(const Curve<A, D>& curve, int64_t first, int64_t last) {
  constexpr A top = static_cast<A>((1 << kBits<D>)-1);
  alignas(64) A offset[D][kWide];
  alignas(64) uint32_t cell[D][kWide];
  alignas(64) uint32_t position[kWide];
  for (int64_t begin = first; begin < last; begin += kWide) {
    const int count = static_cast<int>(last - begin < kWide ? last - begin : kWide);
    for (int j = 0; j < kWide; ++j) {
      const A* x = curve.points + static_cast<int64_t>(curve.order[begin + (j < count ? j : 0)]) * D;
      for (int d = 0; d < D; ++d) offset[d][j] = (x[d] - curve.low[d]) * curve.scale;
    }
    for (int d = 0; d < D; ++d) {
      // Through int32: there is no vector conversion to uint32 before AVX-512.
      for (int j = 0; j < kWide; ++j) {
        cell[d][j] = static_cast<uint32_t>(static_cast<int32_t>(offset[d][j] < top ? offset[d][j] : top));
      }
    }
    hilbert<D>(cell, position);
    for (int j = 0; j < count; ++j) {
      curve.items[begin + j] = static_cast<uint64_t>(position[j]) << 32 | static_cast<uint32_t>(curve.order[begin + j]);
    }
  }
}

}  // namespace zoo::nearest_neighbors::ZOO_SIMD_LEVEL
