// The scalar core, compiled once per SIMD level. Many queries are panels of packed columns that every tile of bank
// entries meets; few queries are rows, and a bank entry is multiplied with them, and with itself, while it is read.
#include "common/panels.inl"

namespace zoo::cosine_topk::ZOO_SIMD_LEVEL {

using namespace panels::ZOO_SIMD_LEVEL;

// ---- Packing the queries

template <typename T, typename B, typename A>
bool pack(const Problem<T, B, A>& p, A* packed) {
  bool all_finite = true;
  if (p.q <= kFew) {
    for (int64_t i = 0; i < p.q; ++i) {
      A* row = packed + i * p.d;
      widen(p.queries + i * p.d, row, p.d);
      const A square = sum_of_squares(row, p.d);
      const A scale = inverse_length(square);
      all_finite &= finite(square);
      for (int64_t k = 0; k < p.d; ++k) row[k] *= scale;
    }
    return all_finite;
  }
  for (int64_t q0 = 0; q0 < p.q; q0 += kColumns<A>) {
    all_finite &= pack_panel(p.queries + q0 * p.d, std::min(kColumns<A>, p.q - q0),
                             stored_columns<A>(p.q, q0 / kColumns<A>), p.d, p.d, 1, true, packed + q0 * p.d);
  }
  return all_finite;
}

// ---- Many queries

// Takes over, from a block of similarities, those that beat the worst of their query's heap.
template <typename A>
struct KeepTop {
  const A* scale;      // of every bank entry of the tile
  int64_t first_entry; // of the tile
  int64_t count;       // queries of the panel
  int64_t k;
  A* worst;            // of every query of the panel
  A* similarity;
  int64_t* index;

  template <int R, int V>
  inline __attribute__((always_inline)) void operator()(const vector_t<A> (&dots)[R][V], int64_t row) {
    constexpr int64_t columns = V * Vector<A>::width;
    alignas(64) A scores[R][columns];
    alignas(64) A highest[columns];
    for (int v = 0; v < V; ++v) {
      vector_t<A> top = dots[0][v] * scale[row];
      for (int r = 0; r < R; ++r) {
        const vector_t<A> score = dots[r][v] * scale[row + r];
        std::memcpy(scores[r] + v * Vector<A>::width, &score, sizeof(score));
        top = score > top ? score : top;
      }
      std::memcpy(highest + v * Vector<A>::width, &top, sizeof(top));
    }
    for (int64_t c = 0; c < std::min(columns, count); ++c) {
      if (!(highest[c] > worst[c])) continue;
      for (int r = 0; r < R; ++r) {
        if (!(scores[r][c] > worst[c])) continue;
        replace_worst(similarity + c * k, index + c * k, k, scores[r][c], first_entry + row + r);
        worst[c] = similarity[c * k];
      }
    }
  }
};

template <typename T, typename B, typename A>
void scan_many(const Problem<T, B, A>& p, int64_t block, int64_t part) {
  simd::Buffer<A> buffer(p.d * kTileRows);
  A squares[kTileRows], scale[kTileRows], worst[kQueries];
  std::fill(worst, worst + kQueries, p.floor);
  const int64_t q_first = block * kQueries, q_last = std::min(p.q, q_first + kQueries);
  const int64_t last = p.m * (part + 1) / p.parts;
  for (int64_t entry = p.m * part / p.parts; entry < last; entry += kTileRows) {
    const int64_t count = std::min(kTileRows, last - entry);
    Tile<A> tile;
    if (!load(p.bank + entry * p.stride_row, count, p.d, p.stride_row, p.stride_k, buffer.data(), squares, &tile)) {
      p.bank_finite->store(false);
      return;
    }
    for (int64_t r = 0; r < count; ++r) scale[r] = inverse_length(squares[r]);
    for (int64_t q0 = q_first; q0 < q_last; q0 += kColumns<A>) {
      const int64_t heap = (part * p.q + q0) * p.k;
      KeepTop<A> keep{scale, entry, q_last - q0, p.k, worst + (q0 - q_first), p.similarity + heap, p.index + heap};
      meet(tile, p.packed + q0 * p.d, stored_columns<A>(p.q, q0 / kColumns<A>), keep);
    }
  }
}

// ---- Few queries

// A vector of entries as the type of accumulation: a narrow bank is widened while it is read.
inline vector_t<float> vector_at(const float* in) {
  vector_t<float> x;
  std::memcpy(&x, in, sizeof(x));
  return x;
}
inline vector_t<double> vector_at(const double* in) {
  vector_t<double> x;
  std::memcpy(&x, in, sizeof(x));
  return x;
}
inline vector_t<float> vector_at(const BFloat16* in) {
  typedef uint16_t Narrow __attribute__((vector_size(ZOO_SIMD_BYTES / 2)));
  typedef uint32_t Wide __attribute__((vector_size(ZOO_SIMD_BYTES)));
  Narrow bits;
  std::memcpy(&bits, in, sizeof(bits));
  return (vector_t<float>)(__builtin_convertvector(bits, Wide) << 16);
}
inline vector_t<float> vector_at(const int8_t* in) {
  typedef int32_t Wide __attribute__((vector_size(ZOO_SIMD_BYTES)));
#if !defined(__clang__) && ZOO_SIMD_BYTES > 16  // GCC converts these one by one
  typedef char Narrow __attribute__((vector_size(16)));
#if ZOO_SIMD_BYTES == 64
  Narrow bits;
  std::memcpy(&bits, in, sizeof(bits));
  const Wide wide = __builtin_ia32_pmovsxbd512_mask(bits, Wide{}, -1);
#else
  long long low;
  std::memcpy(&low, in, sizeof(low));
  typedef long long Pair __attribute__((vector_size(16)));
  const Wide wide = __builtin_ia32_pmovsxbd256((Narrow)Pair{low, 0});
#endif
#else
  typedef int8_t Narrow __attribute__((vector_size(ZOO_SIMD_BYTES / 4)));
  Narrow bits;
  std::memcpy(&bits, in, sizeof(bits));
  const Wide wide = __builtin_convertvector(bits, Wide);
#endif
  return __builtin_convertvector(wide, vector_t<float>);
}
inline vector_t<float> vector_at(const Half* in) {
#if ZOO_SIMD_BYTES == 64
  typedef short Narrow __attribute__((vector_size(32)));
  Narrow bits;
  std::memcpy(&bits, in, sizeof(bits));
  return __builtin_ia32_vcvtph2ps512_mask(bits, vector_t<float>{}, -1, 4);
#elif ZOO_SIMD_BYTES == 32
  typedef short Narrow __attribute__((vector_size(16)));
  Narrow bits;
  std::memcpy(&bits, in, sizeof(bits));
  return __builtin_ia32_vcvtph2ps256(bits);
#else
  float lanes[Vector<float>::width];
  for (int64_t i = 0; i < Vector<float>::width; ++i) lanes[i] = static_cast<float>(in[i]);
  return vector_at(lanes);
#endif
}

template <typename B, typename A, int Q>
void dot_row(const B* __restrict row, const A* __restrict queries, int64_t d, A* dots, A* square) {
  using Vec = vector_t<A>;
  constexpr int64_t width = Vector<A>::width;
  constexpr int kUnroll = 4;
  Vec sums[Q + 1][kUnroll] = {};
  int64_t k = 0;
  for (; k + kUnroll * width <= d; k += kUnroll * width) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      const Vec x = vector_at(row + k + u * width);
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) {
        Vec y;
        std::memcpy(&y, queries + q * d + k + u * width, sizeof(y));
        sums[q][u] += x * y;
      }
      sums[Q][u] += x * x;
    }
  }
  for (int q = 0; q <= Q; ++q) {
    const Vec sum = (sums[q][0] + sums[q][1]) + (sums[q][2] + sums[q][3]);
    (q < Q ? dots[q] : *square) = sum_of_lanes<A>(sum);
  }
  for (; k < d; ++k) {
    const A x = static_cast<A>(row[k]);
    for (int q = 0; q < Q; ++q) dots[q] += x * queries[q * d + k];
    *square += x * x;
  }
}

template <typename T, typename B, typename A, int Q>
void scan_few(const Problem<T, B, A>& p, int64_t part) {
  simd::Buffer<A> buffer(p.d);
  A worst[Q];
  for (int q = 0; q < Q; ++q) worst[q] = p.floor;
  const int64_t last = p.m * (part + 1) / p.parts;
  bool all_finite = true;
  for (int64_t entry = p.m * part / p.parts; entry < last; ++entry) {
    const B* in = p.bank + entry * p.stride_row;
    A dots[Q], square;
    if (p.stride_k == 1) {
      dot_row<B, A, Q>(in, p.packed, p.d, dots, &square);
    } else {
      for (int64_t k = 0; k < p.d; ++k) buffer[k] = static_cast<A>(in[k * p.stride_k]);
      dot_row<A, A, Q>(buffer.data(), p.packed, p.d, dots, &square);
    }
    all_finite &= finite(square);
    const A scale = inverse_length(square);
    for (int q = 0; q < Q; ++q) {
      const A score = dots[q] * scale;
      if (!(score > worst[q])) continue;
      const int64_t heap = (part * p.q + q) * p.k;
      replace_worst(p.similarity + heap, p.index + heap, p.k, score, entry);
      worst[q] = p.similarity[heap];
    }
  }
  if (!all_finite) p.bank_finite->store(false);
}

template <typename T, typename B, typename A>
void scan(const Problem<T, B, A>& p, int64_t first_task, int64_t last_task) {
  for (int64_t task = first_task; task < last_task; ++task) {
    const int64_t block = task / p.parts, part = task % p.parts;
    switch (p.q) {
      case 1: scan_few<T, B, A, 1>(p, part); break;
      case 2: scan_few<T, B, A, 2>(p, part); break;
      case 3: scan_few<T, B, A, 3>(p, part); break;
      case 4: scan_few<T, B, A, 4>(p, part); break;
      default: scan_many(p, block, part);
    }
  }
}

}  // namespace zoo::cosine_topk::ZOO_SIMD_LEVEL
